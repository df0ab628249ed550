"""Go programs, built from the modules in modules/ into the cache.

Each go.mod pins a whole dependency tree. Kubernetes and etcd have their own modules, as their trees conflict. Clients
of Kubernetes share one module: Go compiles a package only once if its version and all its dependencies are the same,
and compiling client-go three times took four minutes of a cold start.
"""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from pathlib import Path

from testcluster.console import Error, Step
from testcluster.paths import cache

MODULES = Path(__file__).parent / "modules"

PACKAGES = {
    "etcd": {"etcd": "go.etcd.io/etcd/server/v3"},
    "kubernetes": {
        name: f"k8s.io/kubernetes/cmd/{name}"
        for name in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    },
    "s3": {"versitygw": "github.com/versity/versitygw/cmd/versitygw"},
    "clients": {
        "coredns": "./coredns",
        "helm": "helm.sh/helm/v4/cmd/helm",
        "prometheus": "github.com/prometheus/prometheus/cmd/prometheus",
    },
}
# Debian's Prometheus can't discover Kubernetes pods, so it is built here, with no other kind of service discovery.
TAGS = {"clients": "remove_all_sd,enable_kubernetes_sd"}


def binary(name: str) -> Path:
    """The path of program `name`. Builds it if it is not in the cache, which takes minutes for Kubernetes."""
    module = next(module for module, programs in PACKAGES.items() if name in programs)
    folder = cache() / "bin" / fingerprint(MODULES / module)
    path = folder / name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another checkout may be building the same program
        if not path.exists():
            _build(MODULES / module, PACKAGES[module][name], path)
    return path


def every_binary() -> None:
    """Build all missing programs at once, so that a cold cache doesn't cause delays later."""
    for programs in PACKAGES.values():
        for name in programs:
            binary(name)


def fingerprint(module: Path) -> str:
    """A hash of what a build depends on: the pinned versions and our own Go files."""
    files = [module / "go.mod", module / "go.sum", *sorted(module.rglob("*.go"))]
    return f"{module.name}-{hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:12]}"


def version(module: str, package: str) -> str:
    """The version of `package` that modules/`module`/go.mod requires, as `v1.2.3`."""
    match = re.search(rf"{re.escape(package)} (v\S+)", (MODULES / module / "go.mod").read_text())
    if not match:
        raise Error(f"modules/{module}/go.mod does not require {package}")
    return match.group(1)


def _build(module: Path, package: str, path: Path) -> None:
    flags = "-s -w"
    if module.name == "kubernetes":
        # Otherwise the API server reports version v0.0.0, which clients refuse; the same mistake in another build:
        # https://github.com/kubernetes-sigs/kubebuilder/issues/297
        flags += f" -X k8s.io/component-base/version.gitVersion={version('kubernetes', 'k8s.io/kubernetes')}"
    partial = path.with_suffix(".partial")
    command = [
        _go(),
        "build",
        "-v",
        "-trimpath",
        "-buildvcs=false",
        f"-tags={TAGS.get(module.name, '')}",
        "-ldflags",
        flags,
        "-o",
        str(partial),
        package,
    ]
    with Step(f"build {path.name}") as step:
        # Without cgo, as Prometheus goes into an image and must not need this machine's C library.
        environment = os.environ | ({"CGO_ENABLED": "0"} if module.name == "clients" else {})
        process = subprocess.Popen(command, cwd=module, env=environment, stderr=subprocess.PIPE, text=True)
        assert process.stderr
        lines: list[str] = []
        for line in process.stderr:  # -v prints one line per compiled package
            lines.append(line)
            step.detail = f"{len(lines)} packages"
        if process.wait() != 0:
            raise Error(f"building {package} failed:\n{''.join(lines[-20:])}")
        os.replace(partial, path)


def _go() -> str:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if not go:
        raise Error(
            "Go 1.21 or newer is missing; it is needed to build Kubernetes, and downloads the exact toolchain itself. "
            "Install it:\n  curl -fsSL https://go.dev/dl/go1.26.0.linux-amd64.tar.gz | tar -C /usr/local -xz"
        )
    return go

"""Go programs, built from the modules in modules/ into the cache.

Each go.mod pins a whole dependency tree. Kubernetes and etcd have their own modules, as their trees conflict. Clients
of Kubernetes share one module: Go compiles a package only once if its version and all its dependencies are the same,
and compiling client-go three times took four minutes of a cold start. Traefik and prometheus-adapter have their own
modules, as only the tests of the parts `gateway` and `autoscaling` need them. Of KEDA only a CRD is used, and nothing
is built.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    "gateway": {"traefik": "github.com/traefik/traefik/v3/cmd/traefik"},
    "autoscaling": {"prometheus-adapter": "sigs.k8s.io/prometheus-adapter/cmd/adapter"},
}
FOR_PARTS = ("gateway", "autoscaling")  # modules of programs that only a part of `make test-long` needs
# Debian's Prometheus can't discover Kubernetes pods, so it is built here, with no other kind of service discovery.
TAGS = {"clients": "remove_all_sd,enable_kubernetes_sd"}
# Traefik imports lego, and lego's package `dns` the clients of 200 providers: 900 packages, of which some can't be
# downloaded. So modules/gateway/lego has an empty package `dns`, and a build adds these folders of the real module.
LEGO = "github.com/go-acme/lego/v5"
LEGO_FOLDERS = ("acme", "certcrypto", "certificate", "challenge", "internal", "lego", "log", "platform", "registration")


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
            with _sources(module) as sources:
                _build(module, sources, PACKAGES[module][name], path)
    return path


def every_binary() -> None:
    """Build all missing programs at once, so that a cold cache doesn't cause delays later."""
    for module, programs in PACKAGES.items():
        for name in () if module in FOR_PARTS else programs:
            binary(name)


def downloaded(module: str, package: str) -> Path:
    """The folder of a published Go module, in the version and with the hash that modules/`module` requires."""
    command = [_go(), "mod", "download", "-json", f"{package}@{version(module, package)}"]
    with tempfile.TemporaryDirectory() as empty:  # outside of any module, so that no replacement is found
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    try:
        found = json.loads(done.stdout)
        pinned, folder = f"{package} {found['Version']} {found['Sum']}", Path(found["Dir"])
    except (ValueError, KeyError) as error:
        raise Error(f"downloading {package} failed:\n{done.stdout}{done.stderr}") from error
    if pinned not in (MODULES / module / "go.sum").read_text().splitlines():
        raise Error(f"modules/{module}/go.sum does not have this line: {pinned}")
    return folder


def fingerprint(module: Path) -> str:
    """A hash of what a build depends on: the pinned versions and our own Go files."""
    nested = sorted(path for path in module.rglob("go.mod") if path.parent != module)
    files = [module / "go.mod", module / "go.sum", *nested, *sorted(module.rglob("*.go"))]
    return f"{module.name}-{hashlib.sha256(b''.join(file.read_bytes() for file in files)).hexdigest()[:12]}"


def version(module: str, package: str) -> str:
    """The version of `package` that modules/`module`/go.mod requires, as `v1.2.3`."""
    match = re.search(rf"{re.escape(package)} (v\S+)", (MODULES / module / "go.mod").read_text())
    if not match:
        raise Error(f"modules/{module}/go.mod does not require {package}")
    return match.group(1)


@contextmanager
def _sources(module: str) -> Iterator[Path]:
    """The folder to build a module in: modules/`module`, or a copy of it that is completed."""
    if module != "gateway":
        yield MODULES / module
        return
    with tempfile.TemporaryDirectory() as folder:
        sources, lego = Path(folder) / module, downloaded(module, LEGO)
        shutil.copytree(MODULES / module, sources)
        for name in LEGO_FOLDERS:
            shutil.copytree(lego / name, sources / "lego" / name, copy_function=shutil.copyfile)
        yield sources


def _build(module: str, sources: Path, package: str, path: Path) -> None:
    flags = "-s -w"
    if module == "kubernetes":
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
        f"-tags={TAGS.get(module, '')}",
        "-ldflags",
        flags,
        "-o",
        str(partial),
        package,
    ]
    with Step(f"build {path.name}") as step:
        # Without cgo, as Prometheus goes into an image and must not need this machine's C library.
        environment = os.environ | ({"CGO_ENABLED": "0"} if module in ("clients", *FOR_PARTS) else {})
        process = subprocess.Popen(command, cwd=sources, env=environment, stderr=subprocess.PIPE, text=True)
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

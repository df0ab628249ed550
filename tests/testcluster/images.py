"""The images: built when their inputs change, and loaded into the nodes layer by layer.

A tag is a hash of all that goes into the image. So an unchanged image costs nothing, a changed one has another name and
new pods really use it, and a pod that refers to the old one keeps working.
"""

import contextlib
import fcntl
import filecmp
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from testcluster import containers
from testcluster.binaries import binary
from testcluster.console import Error, Step
from testcluster.node import Node
from testcluster.paths import REPOSITORY, cache

DOCKERFILES = {
    "operator": "operator/Dockerfile",
    "trainer": "trainer_image/Dockerfile",
    "server": "server_image/Dockerfile",
    "monitoring": "tests/testcluster/monitoring/Dockerfile",
}
BASE_PACKAGES = "ca-certificates,python3,python3-venv"
BASE_IMAGE = f"localhost/driftloop-base:bookworm-{hashlib.sha256(BASE_PACKAGES.encode()).hexdigest()[:8]}"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")


def build_arguments(environment: dict[str, str]) -> dict[str, str]:
    """What every Dockerfile is built with: SLIM, as test clusters have no GPUs; PyTorch's index where one is given."""
    arguments = {"SLIM": "1"}
    if index := environment.get("TORCH_INDEX_URL"):
        arguments["TORCH_INDEX_URL"] = index
    return arguments


def prepare(names: Iterable[str], root: Path = REPOSITORY) -> None:
    """Put into the build context what images copy and git doesn't hold: Prometheus, from the cache."""
    target = root / "build/images/prometheus"
    if "monitoring" in names and not (target.exists() and filecmp.cmp(binary("prometheus"), target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(binary("prometheus"), target)


def reference(name: str, arguments: dict[str, str], root: Path = REPOSITORY) -> str:
    """The full name of an image; its tag is a hash of its Dockerfile, every file that this copies, and `arguments`."""
    dockerfile = root / DOCKERFILES[name]
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    digest.update(dockerfile.read_bytes())
    for source in re.findall(r"^COPY (\S+) ", dockerfile.read_text(), re.MULTILINE):
        for path in _files(root / source):
            digest.update(f"\0{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return f"localhost/driftloop-{name}:dev-{digest.hexdigest()[:12]}"


def _files(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)


def provide(names: list[str], nodes: list[Node]) -> dict[str, str]:
    """Build the images `names` and load them into `nodes`; returns each one's reference."""
    arguments = {**build_arguments(dict(os.environ)), "BASE_IMAGE": BASE_IMAGE}
    prepare(names)
    references = {name: reference(name, arguments) for name in names}
    with _exclusive():
        for name, image in references.items():
            lacking = [node for node in nodes if image not in containers.images(node)]
            if lacking or not nodes:
                _build(name, image, arguments)
            for node in lacking:
                with Step(f"load {image} into {node.name}"):
                    _load(image, node)
    return references


def _build(name: str, image: str, arguments: dict[str, str]) -> None:
    if _buildah("images", "--quiet", "--filter", f"reference={image}"):
        return
    _build_base()
    with Step(f"build {image}") as step, _package_index() as secrets:
        command = ["build", "--isolation", "chroot", "--network", "host", "--layers"]
        command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
        command += [f"--secret=id={key},src={path}" for key, path in secrets.items()]
        _follow([*command, "--file", str(REPOSITORY / DOCKERFILES[name]), "--tag", image, str(REPOSITORY)], step)


def _build_base() -> None:
    """A Debian with Python, as a base that needs no registry of images."""
    if _buildah("images", "--quiet", "--filter", f"reference={BASE_IMAGE}"):
        return
    with Step(f"build {BASE_IMAGE}"), tempfile.TemporaryDirectory(dir=_folder()) as folder:
        archive = Path(folder) / "base.tar"
        unread = [f"--dpkgopt=path-exclude=/usr/share/{each}/*" for each in ("doc", "man", "locale")]
        make = ["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", *unread, "bookworm", str(archive)]
        _run(make)
        container = _buildah("from", "scratch")
        _buildah("add", "--quiet", container, str(archive), "/")
        _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--cmd", "python3", container)
        _buildah("commit", "--quiet", "--rm", container, BASE_IMAGE)


@contextlib.contextmanager
def _package_index() -> Iterator[dict[str, Path]]:
    """Let pip in a build reach packages as this machine's pip does: its settings and authorities, as build secrets.

    Secrets and not arguments, as an image records its arguments, and an index may have a password in its URL.
    """
    shown = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "pip.conf"
        config.write_text(pip_config(shown.stdout))
        secrets = {"pip-config": config}
        if _AUTHORITIES.exists():
            secrets["ca-certificates"] = _AUTHORITIES
        yield secrets


def pip_config(shown: str) -> str:
    """The configuration for pip in a build, from the output of `pip config list` here.

    Only how to reach an index: paths of this machine mean nothing in there.
    """
    kept = {"extra-index-url", "index-url", "proxy", "retries", "timeout", "trusted-host"}
    lines = ["[global]"]
    for name, value in re.findall(r"^[^=]*?\.([a-z-]+)='(.*)'$", shown, re.MULTILINE):
        if (option := name.removeprefix("default-")) in kept:
            lines.append(f"{option} = {value}")
    if _AUTHORITIES.exists():
        lines.append("cert = /run/secrets/ca-certificates")
    return "\n".join(lines) + "\n"


def _load(image: str, node: Node) -> None:
    """Load `image` into the node: only the layers that it lacks, so that a change of code takes a second."""
    layout = _folder() / "oci"
    name = image.partition("/")[2]
    _buildah("push", "--quiet", "--disable-compression", "--format", "oci", image, f"oci:{layout}:{name}")
    index = json.loads((layout / "index.json").read_text())
    manifest = next(
        each for each in index["manifests"] if each["annotations"]["org.opencontainers.image.ref.name"] == name
    )
    content = json.loads(_blob(layout, manifest["digest"]).read_text())
    present = set(containers.ctr(node, "content", "list", "--quiet").split())
    layers = [layer["digest"] for layer in content["layers"] if layer["digest"] not in present]
    manifest["annotations"] = {"io.containerd.image.name": image}
    command = ["ctr", "--address", str(node.socket), "--namespace", "k8s.io", "images", "import", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as importer:
        assert importer.stdin
        assert importer.stderr
        with contextlib.suppress(BrokenPipeError), tarfile.open(fileobj=importer.stdin, mode="w|") as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
            for digest in [manifest["digest"], content["config"]["digest"], *layers]:
                tar.add(_blob(layout, digest), f"blobs/{digest.replace(':', '/')}")
        importer.stdin.close()
        errors = importer.stderr.read().decode()
    if importer.returncode != 0:
        raise Error(f"loading {image} into {node.name}: {errors}")


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _folder() -> Path:
    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _buildah_command() -> list[str]:
    # The kernel's own overlay: with the vfs driver every layer is a full copy of all below it.
    storage = ["--root", str(_folder() / "storage"), "--storage-driver", "overlay"]
    return ["buildah", *storage, "--runroot", "/run/driftloop-testcluster-images"]


def _buildah(*arguments: str) -> str:
    return _run([*_buildah_command(), *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Error(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def _follow(arguments: list[str], step: Step) -> None:
    """Run buildah and show its latest line as the step's detail."""
    command = [*_buildah_command(), *arguments]
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            step.detail = line.strip()[:60]
    if process.returncode != 0:
        raise Error(f"the build failed:\n{''.join(lines[-30:])}")


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    with (_folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

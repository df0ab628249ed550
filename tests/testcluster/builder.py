"""Images for CLUSTER=local: buildah builds them, and they are loaded into the nodes layer by layer.

    Dockerfile -> buildah's store -> an OCI layout -> each node's containerd

All of these are in the cache; existing layers are not written again.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import re
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from testcluster import containers, images
from testcluster.console import Error, Step
from testcluster.node import Node
from testcluster.paths import REPOSITORY, cache

BASE_PACKAGES = "ca-certificates,python3,python3-venv"
BASE_IMAGE = f"localhost/driftloop-base:bookworm-{hashlib.sha256(BASE_PACKAGES.encode()).hexdigest()[:8]}"
KEPT = 3  # versions per image, each of which may take gigabytes
_RUNROOT = "/run/driftloop-testcluster-images"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_NAME = "org.opencontainers.image.ref.name"


def provide(names: list[str], nodes: list[Node]) -> dict[str, str]:
    """Build the images `names` and load them into `nodes`. Returns their references by name."""
    arguments = {**images.build_arguments(dict(os.environ)), "BASE_IMAGE": BASE_IMAGE}
    images.prepare(names)
    return {name: _provide(name, images.arguments_of(name, arguments), nodes) for name in images.in_order(names)}


def _provide(name: str, arguments: dict[str, str], nodes: list[Node]) -> str:
    image = images.reference(name, arguments)
    if not _lacking(image, nodes):
        return image  # without a lock, so as not to wait for another build
    # Trainer and server share a lock: the second build finds the layers of the first in the store.
    with _locked("builds", fcntl.LOCK_SH), _locked("torch" if name in ("trainer", "server") else name, fcntl.LOCK_EX):
        image = _build(name, arguments)
    with _locked("layout", fcntl.LOCK_EX):
        layout = _export(image)
        for node in _lacking(image, nodes):
            with Step(f"load {image} into {node.name}"):
                _load(image, layout, node)
        with contextlib.suppress(BlockingIOError), _locked("builds", fcntl.LOCK_EX | fcntl.LOCK_NB):
            _prune(layout, nodes)  # skipped while another build is running
    return image


def _lacking(image: str, nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if image not in containers.images(node)]


def _build(name: str, arguments: dict[str, str]) -> str:
    """Build the image from the current files, and return its reference."""
    outdated: list[str] = []  # tags that don't match their content, as a file was edited during the build
    for _ in range(3):
        image = images.reference(name, arguments)
        if not _buildah("images", "--quiet", "--filter", f"reference={image}"):
            with _locked("base", fcntl.LOCK_EX):
                _build_base()
            with Step(f"build {image}") as step, _package_index() as secrets:
                command = ["build", "--isolation", "chroot", "--network", "host", "--layers"]
                command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
                command += [f"--secret=id={key},src={path}" for key, path in secrets.items()]
                command += ["--file", str(REPOSITORY / images.DOCKERFILES[name]), "--tag", image]
                command.append(str(REPOSITORY / images.context(name)))
                _follow(command, step)
        if images.reference(name, arguments) == image:
            for tag in outdated:  # removed at the end, so that the shared layers stay in use and are not rebuilt
                _buildah("rmi", tag)
            return image
        outdated.append(image)
    raise Error(f"the files of the image {name} keep changing during the build; try again later")


def _build_base() -> None:
    """Build the base image, a Debian with Python, without an image registry."""
    if _buildah("images", "--quiet", "--filter", f"reference={BASE_IMAGE}"):
        return
    with Step(f"build {BASE_IMAGE}"), tempfile.TemporaryDirectory(dir=_folder()) as temporary:
        archive = Path(temporary) / "base.tar"
        excluded = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in ("doc", "man", "locale")]
        _run(["mmdebstrap", "--variant=minbase", f"--include={BASE_PACKAGES}", *excluded, "bookworm", str(archive)])
        container = _buildah("from", "scratch")
        _buildah("add", "--quiet", container, str(archive), "/")
        _buildah("config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--cmd", "python3", container)
        _buildah("commit", "--quiet", "--rm", container, BASE_IMAGE)


@contextlib.contextmanager
def _package_index() -> Iterator[dict[str, Path]]:
    """Build secrets with this machine's pip settings and certificate authorities, for pip in the build.

    Not build arguments, as an image records its arguments, and the URL of an index may contain a password.
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
    """The pip configuration for a build, from the output of `pip config list` on this machine.

    Only the options for reaching an index, as this machine's paths don't exist in the build.
    """
    kept = {"extra-index-url", "index-url", "proxy", "retries", "timeout", "trusted-host"}
    lines = ["[global]"]
    for name, value in re.findall(r"^[^=]*?\.([a-z-]+)='(.*)'$", shown, re.MULTILINE):
        if (option := name.removeprefix("default-")) in kept:
            lines.append(f"{option} = {value}")
    if _AUTHORITIES.exists():
        lines.append("cert = /run/secrets/ca-certificates")
    return "\n".join(lines) + "\n"


def _export(image: str) -> Path:
    """Write the image into the OCI layout that all images share. Returns the layout.

    With skopeo, as `buildah push` compresses the layers, which takes minutes per gigabyte.
    """
    layout = _folder() / "oci"
    with Step(f"export {image}"):
        source = f"containers-storage:[overlay@{_folder() / 'storage'}+{_RUNROOT}]{image}"
        target = f"oci:{layout}:{_short(image)}"
        _run(["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, target])
    return layout


def _load(image: str, layout: Path, node: Node) -> None:
    """Load the image into the node, but only missing layers, so that a change of code takes seconds."""
    index = json.loads((layout / "index.json").read_text())
    entry = next(entry for entry in index["manifests"] if entry["annotations"][_NAME] == _short(image))
    manifest = {**entry, "annotations": {"io.containerd.image.name": image}}
    config, layers = _content(layout, manifest)
    present = set(containers.ctr(node, "content", "list", "--quiet").split())
    command = ["ctr", "--address", str(node.socket), "--namespace", "k8s.io", "images", "import", "-"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as importer:
        assert importer.stdin
        assert importer.stderr
        with contextlib.suppress(BrokenPipeError), tarfile.open(fileobj=importer.stdin, mode="w|") as tar:
            _add(tar, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            _add(tar, "index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
            for digest in [manifest["digest"], config, *(layer for layer in layers if layer not in present)]:
                tar.add(layout / _path(digest), _path(digest))
        importer.stdin.close()
        errors = importer.stderr.read().decode()
    if importer.returncode != 0:
        raise Error(f"loading {image} into {node.name}: {errors}")


def _prune(layout: Path, nodes: list[Node]) -> None:
    """Remove the remains of killed builds, and old versions of images unless a container uses them."""
    _buildah("rm", "--all")
    index = json.loads((layout / "index.json").read_text())
    kept = newest([entry["annotations"][_NAME] for entry in index["manifests"]], KEPT)  # the index is in build order
    index["manifests"] = [entry for entry in index["manifests"] if entry["annotations"][_NAME] in kept]
    needed = {digest for entry in index["manifests"] for digest in _digests(layout, entry)}
    (layout / "index.json").write_text(json.dumps(index))
    for blob in (layout / "blobs" / "sha256").iterdir():
        if f"sha256:{blob.name}" not in needed:
            blob.unlink()
    for image in _buildah("images", "--format", "{{.Name}}:{{.Tag}}").split():
        if ":dev-" in image and _short(image) not in kept:
            _buildah("rmi", image)
    for node in nodes:
        containers.remove_images(node, lambda image: ":dev-" in image and _short(image) not in kept)


def newest(names: list[str], count: int) -> set[str]:
    """The last `count` names per image. `names` have the form `image:tag` and are sorted from old to new."""
    by_image: dict[str, list[str]] = {}
    for name in names:
        by_image.setdefault(name.partition(":")[0], []).append(name)
    return {name for versions in by_image.values() for name in versions[-count:]}


def _digests(layout: Path, manifest: dict[str, Any]) -> list[str]:
    config, layers = _content(layout, manifest)
    return [manifest["digest"], config, *layers]


def _content(layout: Path, manifest: dict[str, Any]) -> tuple[str, list[str]]:
    """The digests of an image's configuration and layers."""
    content = json.loads((layout / _path(manifest["digest"])).read_text())
    return content["config"]["digest"], [layer["digest"] for layer in content["layers"]]


def _short(image: str) -> str:
    return image.partition("/")[2]


def _path(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _folder() -> Path:
    folder = cache() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _buildah_command() -> list[str]:
    # The kernel's overlay: with the vfs driver each layer is a full copy of all layers below.
    storage = ["--root", str(_folder() / "storage"), "--storage-driver", "overlay"]
    return ["buildah", *storage, "--runroot", _RUNROOT]


def _buildah(*arguments: str) -> str:
    return _run([*_buildah_command(), *arguments])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Error(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout.strip()


def _follow(arguments: list[str], step: Step) -> None:
    """Run buildah and show its last line of output as the step's detail."""
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
def _locked(what: str, how: int) -> Iterator[None]:
    with (_folder() / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, how)
        yield

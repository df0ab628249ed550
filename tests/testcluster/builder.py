"""Images for CLUSTER=local: built by buildah, and loaded into the nodes layer by layer.

    Dockerfile -> buildah's store -> an OCI layout -> each node's containerd

All in the cache; what lies there already is never written again.
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
KEPT = 3  # versions of an image: gigabytes each when what they were made from changed
_RUNROOT = "/run/driftloop-testcluster-images"
_AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
_NAME = "org.opencontainers.image.ref.name"


def provide(names: list[str], nodes: list[Node]) -> dict[str, str]:
    """Build the images `names` and load them into `nodes`; returns each one's reference."""
    arguments = {**images.build_arguments(dict(os.environ)), "BASE_IMAGE": BASE_IMAGE}
    images.prepare(names)
    return {name: _provide(name, arguments, nodes) for name in names}


def _provide(name: str, arguments: dict[str, str], nodes: list[Node]) -> str:
    image = images.reference(name, arguments)
    if not _lacking(image, nodes):
        return image  # without a lock: who needs no build need not wait for another's
    # Trainer and server together, as the second finds the first one's gigabytes in the store.
    with _locked("builds", fcntl.LOCK_SH), _locked("torch" if name in ("trainer", "server") else name, fcntl.LOCK_EX):
        image = _build(name, arguments)
    with _locked("layout", fcntl.LOCK_EX):
        layout = _export(image)
        for node in _lacking(image, nodes):
            with Step(f"load {image} into {node.name}"):
                _load(image, layout, node)
        with contextlib.suppress(BlockingIOError), _locked("builds", fcntl.LOCK_EX | fcntl.LOCK_NB):
            _prune(layout, nodes)  # unless somebody builds: next time
    return image


def _lacking(image: str, nodes: list[Node]) -> list[Node]:
    return [node for node in nodes if image not in containers.images(node)]


def _build(name: str, arguments: dict[str, str]) -> str:
    """Build the image from the files as they are now, and return its reference."""
    outdated: list[str] = []  # someone edited a file meanwhile: such a name promises what the image isn't
    for _ in range(3):
        image = images.reference(name, arguments)
        if not _buildah("images", "--quiet", "--filter", f"reference={image}"):
            with _locked("base", fcntl.LOCK_EX):
                _build_base()
            with Step(f"build {image}") as step, _package_index() as secrets:
                command = ["build", "--isolation", "chroot", "--network", "host", "--layers"]
                command += [f"--build-arg={key}={value}" for key, value in arguments.items()]
                command += [f"--secret=id={key},src={path}" for key, path in secrets.items()]
                command += ["--file", str(REPOSITORY / images.DOCKERFILES[name]), "--tag", image, str(REPOSITORY)]
                _follow(command, step)
        if images.reference(name, arguments) == image:
            for each in outdated:  # only now: with the last image that uses them its layers go, and take minutes again
                _buildah("rmi", each)
            return image
        outdated.append(image)
    raise Error(f"the files of the image {name} change all the time; build it when they are at rest")


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


def _export(image: str) -> Path:
    """Write the image into the OCI layout that all images share; returns the layout.

    By skopeo, as buildah's own push compresses: minutes for a gigabyte, to go nowhere.
    """
    layout = _folder() / "oci"
    with Step(f"export {image}"):
        source = f"containers-storage:[overlay@{_folder() / 'storage'}+{_RUNROOT}]{image}"
        target = f"oci:{layout}:{_short(image)}"
        _run(["skopeo", "copy", "--quiet", "--dest-oci-accept-uncompressed-layers", source, target])
    return layout


def _load(image: str, layout: Path, node: Node) -> None:
    """Load the image into the node: only the layers that it lacks, so that a change of code takes seconds."""
    index = json.loads((layout / "index.json").read_text())
    found = next(each for each in index["manifests"] if each["annotations"][_NAME] == _short(image))
    manifest = {**found, "annotations": {"io.containerd.image.name": image}}
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
    """Forget what killed builds left, and all but the newest versions of each image, save those that containers use."""
    _buildah("rm", "--all")
    index = json.loads((layout / "index.json").read_text())
    kept = newest([each["annotations"][_NAME] for each in index["manifests"]], KEPT)  # in order of their making
    index["manifests"] = [each for each in index["manifests"] if each["annotations"][_NAME] in kept]
    needed = {digest for each in index["manifests"] for digest in _digests(layout, each)}
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
    """Of `names`, as `image:tag` from old to new, the last `count` of each image."""
    by_image: dict[str, list[str]] = {}
    for name in names:
        by_image.setdefault(name.partition(":")[0], []).append(name)
    return {name for versions in by_image.values() for name in versions[-count:]}


def _digests(layout: Path, manifest: dict[str, Any]) -> list[str]:
    config, layers = _content(layout, manifest)
    return [manifest["digest"], config, *layers]


def _content(layout: Path, manifest: dict[str, Any]) -> tuple[str, list[str]]:
    """The digests of an image's configuration and of its layers."""
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
    # The kernel's own overlay: with the vfs driver every layer is a full copy of all below it.
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
def _locked(what: str, how: int) -> Iterator[None]:
    with (_folder() / f".{what}.lock").open("w") as lock:
        fcntl.flock(lock, how)
        yield

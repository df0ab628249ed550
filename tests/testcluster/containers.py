"""containerd of a node: its start, its images, and the files that it leaves when it is killed."""

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from testcluster import wait
from testcluster.console import Error
from testcluster.node import SANDBOX_IMAGE, Node

# Podman's pause process: a static binary of 1 MB that waits and reaps orphaned processes.
PAUSE = Path("/usr/bin/catatonit")


def start(node: Node) -> None:
    """Start the node's containerd. The first time, first remove the containers of a previous cluster."""
    containerd = node.containerd()
    prepared = node.directory / "containerd-prepared"
    if containerd.running() and prepared.exists():
        return
    if not prepared.exists():
        containerd.stop()  # a previous run may have been killed halfway
        node.images.mkdir(parents=True, exist_ok=True)
        _start_and_wait(node)
        _forget_containers(node)
        containerd.stop()  # its CRI plugin reads the containers only at startup
    _start_and_wait(node)
    if not prepared.exists():
        with tempfile.NamedTemporaryFile(suffix=".tar") as file:
            write_sandbox_image(Path(file.name))
            ctr(node, "images", "import", file.name)
        prepared.touch()


def _forget_containers(node: Node) -> None:
    """Delete containers of a previous cluster from the store, which is kept for its images."""
    if left := ctr(node, "containers", "list", "--quiet").split():
        ctr(node, "containers", "delete", *left)


def ctr(node: Node, *arguments: str, seconds: float = 60) -> str:
    """Run containerd's command-line client on `node` and return its output."""
    command = ["ctr", "--address", str(node.socket), "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    if done.returncode != 0:
        raise Error(f"ctr {' '.join(arguments)} on {node.name}: {done.stderr.strip()}")
    return done.stdout


def images(node: Node) -> set[str]:
    """The references of the node's complete images. After an aborted import an image has only its name."""
    rows = [line.split() for line in ctr(node, "images", "check").splitlines()[1:]]
    return {row[0] for row in rows if row[3] == "complete" and row[-1] == "true"}


def remove_images(node: Node, unwanted: Callable[[str], bool]) -> None:
    """Remove unused images whose reference is `unwanted`, with the layers that only they have."""
    used = {line.split()[1] for line in ctr(node, "containers", "list").splitlines()[1:]}
    rows = [line.split()[:3] for line in ctr(node, "images", "list").splitlines()[1:]]
    digests = {digest for image, _, digest in rows if unwanted(image) and image not in used}
    # containerd's CRI plugin keeps a second reference to each image, by its id; both must be removed.
    if references := [image for image, _, digest in rows if digest in digests]:
        ctr(node, "images", "remove", "--sync", *references)


def write_sandbox_image(archive: Path) -> None:
    """Write a Docker archive with the pause image, whose process keeps a pod's namespaces alive."""
    layer = _tar({"pause": PAUSE.read_bytes()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/pause", "-P"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{_sha256(layer)}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [SANDBOX_IMAGE], "Layers": ["layer.tar"]}]
    parts = {"config.json": json.dumps(config), "manifest.json": json.dumps(manifest)}
    archive.write_bytes(_tar({"layer.tar": layer} | {name: text.encode() for name, text in parts.items()}))


def remove_shim_sockets(nodes: Iterable[Node]) -> None:
    """Remove the sockets of killed shims. They are in a folder that all containerds of a machine share."""
    for node in nodes:
        for address in (node.directory / "containerd").glob("io.containerd.runtime.v2.task/*/*/address"):
            Path(address.read_text().removeprefix("unix://")).unlink(missing_ok=True)


def _start_and_wait(node: Node) -> None:
    containerd = node.containerd()
    containerd.start()
    wait.until(lambda: containerd.check() and _answers(node), f"containerd of {node.name}", 30)


def _answers(node: Node) -> bool:
    try:
        return bool(ctr(node, "version"))
    except Error:
        return False


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), 0o755
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

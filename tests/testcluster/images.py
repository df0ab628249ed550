"""The images: their Dockerfiles, build arguments and names.

A tag is a hash of everything that the image is built from. So an unchanged image is not built again, a changed image
has a new name that new pods use, and pods with the old name keep working.
"""

import filecmp
import hashlib
import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from testcluster.binaries import binary
from testcluster.console import Error
from testcluster.paths import REPOSITORY

DOCKERFILES = {
    "operator": "operator/Dockerfile",
    "trainer": "trainer_image/Dockerfile",
    "server": "server_image/Dockerfile",
    "monitoring": "tests/testcluster/monitoring/Dockerfile",
    "vllm": "tests/testcluster/vllm/Dockerfile",
    "entrypoint": "examples/entrypoint/Dockerfile",
}
FEW_TESTS = ("vllm", "entrypoint")  # vLLM takes gigabytes
DEFAULT = tuple(name for name in DOCKERFILES if name not in FEW_TESTS)
BUILT_ON = {"entrypoint": "trainer"}


def build_arguments(environment: dict[str, str]) -> dict[str, str]:
    """Build arguments for all images: SLIM, as test clusters have no GPUs, and PyTorch's index if it is set."""
    arguments = {"SLIM": "1"}
    if index := environment.get("TORCH_INDEX_URL"):
        arguments["TORCH_INDEX_URL"] = index
    return arguments


def in_order(names: Iterable[str]) -> list[str]:
    """`names` and the images that they are built on, each after the one that it is built on."""
    return list(dict.fromkeys(image for name in names for image in (BUILT_ON.get(name, name), name)))


def arguments_of(name: str, common: dict[str, str], root: Path = REPOSITORY) -> dict[str, str]:
    """Build arguments of one image: `common`, or the reference of the image that it is built on."""
    base = BUILT_ON.get(name)
    return {base.upper(): reference(base, common, root)} if base else common


def context(name: str) -> Path:
    """The folder that the build of an image sees: an example's own, as in its first line, else the repository."""
    dockerfile = Path(DOCKERFILES[name])
    return dockerfile.parent if dockerfile.parts[0] == "examples" else Path()


def prepare(names: Iterable[str], root: Path = REPOSITORY) -> None:
    """Copy Prometheus, which is not in git, from the cache into the build context."""
    target = root / "build/images/prometheus"
    if "monitoring" in names and not (target.exists() and filecmp.cmp(binary("prometheus"), target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(binary("prometheus"), target)


def reference(name: str, arguments: dict[str, str], root: Path = REPOSITORY) -> str:
    """The full name of an image. The tag is a hash of its Dockerfile, all files that it copies, and `arguments`."""
    dockerfile = root / DOCKERFILES[name]
    digest = hashlib.sha256(json.dumps(arguments, sort_keys=True).encode())
    digest.update(dockerfile.read_bytes())
    copied = re.findall(r"^COPY (.+) \S+$", dockerfile.read_text(), re.MULTILINE)
    for source in (source for sources in copied for source in sources.split()):
        for path in _files(root / context(name) / source):
            digest.update(f"\0{path.relative_to(root)}\0".encode())
            digest.update(path.read_bytes())
    return f"localhost/driftloop-{name}:dev-{digest.hexdigest()[:12]}"


def _files(source: Path) -> list[Path]:
    if not source.exists():
        raise Error(f"a Dockerfile copies {source}, which doesn't exist")
    if source.is_file():
        return [source]
    return sorted(path for path in source.rglob("*") if path.is_file() and "__pycache__" not in path.parts)

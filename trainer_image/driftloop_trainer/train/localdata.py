"""The prepared folder as all workers of a pod share it: one copy of what is in a bucket, and its rows as flat files.

They are on the node's disk (disk.py). One process makes them before the others open them: the driver in pod 0, and in
the other pods their first worker (worker/data.py). They are written beside their place and then renamed, so what a
process left that has ended halfway is not used, and the next one deletes it.
"""

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.uris import join
from driftloop.podlib.storage import local_path, read_text
from driftloop_trainer.dataset import FILE, VALIDATION, Dataset
from driftloop_trainer.disk import disk, room
from driftloop_trainer.flatrows import flatten
from driftloop_trainer.folders import open_folder

_COPY = "copy"  # of the prepared folder


@dataclass(frozen=True, slots=True)
class LocalData:
    """`folder`: the prepared folder, mounted or copied. `flat`: a folder with the flat rows of each of its files."""

    folder: Path
    flat: Path

    def dataset(self, name: str) -> Dataset:
        """The rows of a file in the prepared folder."""
        return Dataset(self.folder / name, self.flat / name)


def local_data(uri: str, digest: str) -> LocalData:
    """The prepared folder at `uri`, verified by the process that made the files, which is this one if there are none.

    Raises StageFailure if they don't fit on the disk, StorageError or ManifestError.
    """
    place = disk() / f"prepared-{digest.removeprefix('sha256:')[:32]}"
    if not place.is_dir():
        _make(uri, digest, place)
    mounted = local_path(uri)
    return LocalData(place / _COPY if mounted is None else mounted, place)


def _make(uri: str, digest: str, place: Path) -> None:
    for left in place.parent.glob(f".{place.name}-*"):
        shutil.rmtree(left, ignore_errors=True)
    staged = place.with_name(f".{place.name}-{uuid.uuid4().hex[:8]}")
    staged.mkdir()
    try:
        folder = _opened(uri, digest, staged / _COPY)
        for name in (FILE, VALIDATION):
            if (folder / name).exists():
                (staged / name).mkdir()
                flatten(folder / name, staged / name)
        staged.rename(place)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _opened(uri: str, digest: str, copy: Path) -> Path:
    """The folder at `uri`, verified, or a copy of it."""
    if local_path(uri) is not None:
        return open_folder(uri, copy, digest)
    with room(copy.parent, _size(uri), f"the prepared rows at {uri}"):
        return open_folder(uri, copy, digest)


def _size(uri: str) -> int:
    """Bytes of the folder's files. 0 without a manifest that can be read: `open_folder` reports it."""
    document = read_text(join(uri, MANIFEST))
    try:
        return sum(file.size for file in Manifest.model_validate_json(document or "").files)
    except ValidationError:
        return 0

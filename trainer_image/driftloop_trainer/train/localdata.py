"""The prepared folder as all workers of a pod share it: one copy of what is in a bucket, and its rows as flat files.

They are on the node's disk (disk.py). One process makes them before the others open them: the driver in pod 0, and in
the other pods their first worker (worker/data.py). They are written beside their place and then renamed, so what a
process left that has ended halfway is not used, and the next one deletes it.
"""

import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import local_path, read_text
from driftloop_trainer.dataset import FILE, VALIDATION, Dataset
from driftloop_trainer.disk import disk, room
from driftloop_trainer.flatrows import flatten
from driftloop_trainer.folders import open_folder

_COPY = "copy"  # of the prepared folder
_PATIENCE, _POLL = 1500, 0.5  # seconds; less than a collective waits, so that this is what is told


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

    Raises StageFailure if they don't fit on the disk, or another process makes them for too long; StorageError or
    ManifestError.
    """
    place = disk() / f"prepared-{digest.removeprefix('sha256:')[:32]}"
    with _one_at_a_time(place.parent):
        if not place.is_dir():
            _make(uri, digest, place)
    mounted = local_path(uri)
    return LocalData(place / _COPY if mounted is None else mounted, place)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """No other process is in such a block, such as a worker of an attempt that has not ended yet.

    The kernel gives the lock back when a process ends, however it ends.
    """
    lock, deadline = os.open(folder, os.O_RDONLY), time.monotonic() + _PATIENCE
    try:
        while not _locked(lock):
            if time.monotonic() > deadline:
                message = f"another process has made the training rows in {folder} for more than {_PATIENCE} s"
                raise StageFailure(StageReason.UNEXPECTED, message, EXIT_RETRY)
            time.sleep(_POLL)
        yield
    finally:
        os.close(lock)


def _locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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

"""Copies of models on a claim, so that the next pod of a version starts without a download.

A copy is a folder with the model's digest as its name. It gets this name when it is complete, is verified whenever it
is used, and is deleted when others need the room. The cache only saves time: without it a pod reads the artefact.
"""

import logging
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.podlib.storage import StorageError, fetch_folder, local_path

log = logging.getLogger("driftloop_server.modelcache")

_PARTIAL = ".partial-"  # of folders that a pod is copying, or was when it was killed
_ABANDONED = 24 * 3600  # seconds after which a partial copy is that of a killed pod


class ModelCache:
    """The copies in the folder `uri` on a claim. Their sum is at most `limit` bytes."""

    def __init__(self, uri: str, limit: int) -> None:
        folder = local_path(uri)
        assert folder is not None, f"{uri} is not on a claim"  # the API server has checked it
        self._uri, self._folder, self._limit = uri.rstrip("/"), folder, limit

    def bring(self, digest: str, destination: Path) -> Manifest | None:
        """Copy a model to `destination`, verified; None if there is no copy, or one that is damaged or just deleted."""
        copy = self._copy(digest)
        if not copy.is_dir():
            return None
        try:
            manifest = fetch_folder(f"{self._uri}/{copy.name}", destination, digest)
        except ManifestError as error:
            log.warning("the copy of %s is deleted: %s", digest, error)
            shutil.rmtree(copy, ignore_errors=True)
            return None
        except (StorageError, OSError) as error:
            log.warning("the copy of %s can't be read: %s", digest, error)
            return None
        with suppress(OSError):
            os.utime(copy)  # the last use
        return manifest

    def keep(self, manifest: Manifest, folder: Path) -> None:
        """Keep a copy of a verified model if there is room for it. A failure is logged, and costs only the copy."""
        copy, size = self._copy(manifest.digest), sum(entry.size for entry in manifest.files)
        if copy.exists():
            return
        if size > self._limit:
            log.warning("no copy is kept: the model has %d bytes, modelCache.maxSize is %d", size, self._limit)
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._make_room(size):
                log.warning("no copy is kept: unfinished ones, which other pods make or left, take modelCache.maxSize")
                return
            with self._partial() as partial:
                for path in (*(entry.path for entry in manifest.files), MANIFEST):
                    (partial / path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(folder / path, partial / path)
                partial.rename(copy)
        except OSError as error:
            log.warning("no copy is kept: %s", error)

    def _copy(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def _make_room(self, size: int) -> bool:
        """Delete old copies until there is room; False if there would be none without any copy."""
        room = self._limit - size
        for partial in self._folder.glob(f"{_PARTIAL}*"):
            if time.time() - partial.stat().st_mtime > _ABANDONED:
                shutil.rmtree(partial, ignore_errors=True)
            else:
                room -= _size(partial)
        if room < 0:
            return False
        copies = sorted(
            (path for path in self._folder.iterdir() if _is_copy(path)), key=lambda path: path.stat().st_mtime
        )
        sizes = {path: _size(path) for path in copies}
        for path in copies:
            if sum(sizes.values()) <= room:
                break
            log.info("the copy %s is deleted, to make room", path.name)
            shutil.rmtree(path, ignore_errors=True)
            del sizes[path]
        return True

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        """A new folder, which is deleted unless it was renamed."""
        partial = self._folder / f"{_PARTIAL}{uuid.uuid4().hex[:8]}"
        partial.mkdir()
        try:
            yield partial
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _is_copy(path: Path) -> bool:
    return path.is_dir() and path.name.startswith("sha256-")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

"""Storage by URI, for the pods: the operator never opens a user's storage.

A `pvc://` URI is a mounted folder; the others go through fsspec, with credentials from the environment.
"""

import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.names import VOLUMES, VOLUMES_ENV

# What no second try mends. The last ones are botocore's and google-auth's, known by name: only pods have those.
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ValueError, ImportError)
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}


class StorageError(ValueError):
    """A URI can't be read or written; the message names the URI and the fix.

    `passing`: it is the network's or the service's trouble, and the same may succeed later.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def local_path(uri: str) -> Path | None:
    """The mounted path of a `pvc://claim/path` URI; None for the other schemes."""
    scheme, _, rest = uri.partition("://")
    if scheme != "pvc":
        return None
    parts = [part for part in rest.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise StorageError(f"{uri}: expected pvc://claim/path")
    return Path(os.environ.get(VOLUMES_ENV, VOLUMES), *parts)


def exists(uri: str) -> bool:
    """Whether there is a file or folder at `uri`. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        return path.exists()
    with _remote(uri) as (fs, remote):
        return bool(fs.exists(remote))


def read_text(uri: str) -> str | None:
    """The small text file at `uri`; None when there is none. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        return path.read_text() if path.is_file() else None
    with _remote(uri) as (fs, remote):
        try:
            return bytes(fs.cat_file(remote)).decode()
        except FileNotFoundError:
            return None


def write_text(uri: str, text: str) -> None:
    """Write a small text file, whole or not at all. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        _stage(path, text).rename(path)
        return
    with _remote(uri) as (fs, remote):
        fs.pipe_file(remote, text.encode())


def read_files(uri: str, pattern: str) -> Iterator[bytes]:
    """The files below the folder at `uri` that match, sorted by path; none where there is no folder.

    Raises StorageError.
    """
    folder = local_path(uri)
    if folder is not None:
        yield from (path.read_bytes() for path in sorted(folder.glob(pattern)))
        return
    with _remote(uri) as (fs, remote):
        fs.invalidate_cache()
        yield from (bytes(fs.cat_file(path)) for path in sorted(fs.glob(f"{remote}/{pattern}")))


def create_text(uri: str, text: str) -> bool:
    """Write a small text file, whole or not at all, unless there is one: of several writers one wins.

    Returns whether it was ours. Raises StorageError.
    """
    path = local_path(uri)
    if path is not None:
        return _create(path, text)
    with _remote(uri) as (fs, remote):
        try:
            fs.pipe_file(remote, text.encode(), mode="create")
        except FileExistsError:
            return False
        return True


def fetch_file(uri: str, scratch: Path) -> Path:
    """A local path of the file at `uri`, downloaded into `scratch` where it isn't mounted. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        if not path.is_file():
            raise StorageError(f"{uri}: no such file")
        return path
    target = scratch / f"{uuid.uuid4().hex}-{uri.rstrip('/').rsplit('/', 1)[-1]}"
    with _remote(uri) as (fs, remote):
        fs.get_file(remote, str(target))
    return target


def fetch_folder(uri: str, destination: Path, digest: str | None = None, verify: bool = True) -> Manifest:
    """Copy the folder at `uri` to `destination` and verify the copy.

    A folder without manifest.json is accepted only when no `digest` is asked for. Returns what was copied.
    Raises StorageError when it can't be read, ManifestError when the content is not what was promised.
    """
    destination.mkdir(parents=True, exist_ok=True)
    path = local_path(uri)
    if path is not None:
        if not path.is_dir():
            raise StorageError(f"{uri}: no such folder")
        _copy(path, destination)
    else:
        with _remote(uri) as (fs, remote):
            if not fs.isdir(remote):
                raise StorageError(f"{uri}: no such folder")
            fs.get(remote.rstrip("/") + "/", str(destination), recursive=True)
    if digest is None and not (destination / MANIFEST).exists():
        return Manifest.of(destination)
    manifest = Manifest.read(destination)
    if verify:
        manifest.verify(destination, digest)
    return manifest


def publish(folder: Path, uri: str) -> Manifest:
    """Copy `folder` to `uri`, its manifest last: readers never see half a folder as whole. Idempotent."""
    manifest = Manifest.of(folder)
    manifest.write(folder)
    path = local_path(uri)
    if path is not None:
        _publish_local(folder, path)
        return manifest
    with _remote(uri) as (fs, remote):
        for entry in manifest.files:
            fs.put_file(str(folder / entry.path), f"{remote}/{entry.path}")
        fs.put_file(str(folder / MANIFEST), f"{remote}/{MANIFEST}")
    return manifest


def _copy(source: Path, destination: Path) -> None:
    """Content alone: a pod may not set modes or times of a volume's root, which belongs to root (copytree tries to)."""
    for path in sorted(source.rglob("*")):
        target = destination / path.relative_to(source)
        if path.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


def _publish_local(folder: Path, path: Path) -> None:
    if folder.resolve() == path.resolve():
        return
    staged = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    staged.mkdir(parents=True)
    _copy(folder, staged)
    if path.exists():  # out of the way and not deleted first: a reader misses the folder for an instant at most
        old = path.with_name(f".{path.name}-{uuid.uuid4().hex[:8]}-old")
        path.rename(old)
        staged.rename(path)
        shutil.rmtree(old)
    else:
        staged.rename(path)


def _stage(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
    staged.write_text(text)
    return staged


def _create(path: Path, text: str) -> bool:
    staged = _stage(path, text)
    try:
        os.link(staged, path)  # unlike a rename it takes nobody's place
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # A file system without links. Between the look and the rename another writer may still come.
        if path.exists():
            return False
        staged.replace(path)
        return True
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def _remote(uri: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system for `uri`, and the path in it. All that goes wrong within is a StorageError."""
    import fsspec  # only pods have it, and only these schemes need it

    try:
        yield fsspec.core.url_to_fs(uri)
    except StorageError:
        raise
    except Exception as error:  # each store's client has errors of its own
        final = isinstance(error, _FINAL) or type(error).__name__ in _NO_CREDENTIALS
        raise StorageError(f"{uri}: {str(error) or type(error).__name__}", passing=not final) from error

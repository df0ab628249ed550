"""Access to storage by URI, for pods only: the operator never opens users' storage.

A `pvc://` URI is a mounted folder. Other URIs use fsspec, with credentials from the environment.
"""

import errno
import hashlib
import os
import shutil
import uuid
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from driftloop.contract.manifest import MANIFEST, MAX_FILES, Manifest, ManifestEntry, counts, file_sha256
from driftloop.contract.names import VOLUMES, VOLUMES_ENV
from driftloop.contract.uris import join

_CHUNK = 8 << 20  # bytes
_READERS = 4  # files that are read at the same time to hash them, a chunk of each in memory

# Errors that a retry doesn't solve. The last ones, of botocore and google-auth, are compared by name, as only pods have
# these packages.
_FINAL = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, ValueError, ImportError)
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound", "DefaultCredentialsError"}


class StorageError(ValueError):
    """A URI can't be read or written. The message names the URI.

    `passing`: the network or the storage service failed, so a retry may succeed.
    """

    def __init__(self, message: str, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


def local_path(uri: str) -> Path | None:
    """The mounted path of a `pvc://claim/path` URI; None for other schemes."""
    scheme, _, rest = uri.partition("://")
    if scheme != "pvc":
        return None
    parts = [part for part in rest.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise StorageError(f"{uri}: expected pvc://claim/path")
    return Path(os.environ.get(VOLUMES_ENV, VOLUMES), *parts)


def pinned(uri: str) -> str:
    """The URI of what is at `uri` now: a branch or tag of a `hf://` repository is replaced by its commit.

    Others are returned as they are, and a branch of which the Hub does not tell the commit. Raises StorageError.
    """
    if not uri.startswith("hf://"):
        return uri
    with _remote(uri) as (fs, remote):
        from huggingface_hub import HfApi  # only pods have it, as they have fsspec

        place = fs.resolve_path(remote)
        revision = getattr(place, "revision", None)  # a bucket of the Hub has none
        if revision is None:
            return uri
        commit = HfApi().repo_info(place.repo_id, revision=revision, repo_type=place.repo_type).sha
        if commit is None:  # a mirror may not tell it
            return uri
        kind = {"dataset": "datasets/", "space": "spaces/"}.get(place.repo_type, "")
        return join(f"hf://{kind}{place.repo_id}@{commit}", place.path_in_repo).rstrip("/")


def exists(uri: str) -> bool:
    """Whether a file or folder exists at `uri`. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        return path.exists()
    with _remote(uri) as (fs, remote):
        return bool(fs.exists(remote))


def read_text(uri: str) -> str | None:
    """The content of the small text file at `uri`; None if it does not exist. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        return path.read_text() if path.is_file() else None
    with _remote(uri) as (fs, remote):
        try:
            return bytes(fs.cat_file(remote)).decode()
        except FileNotFoundError:
            return None


def read_range(uri: str, start: int, end: int) -> bytes:
    """The bytes of the file at `uri` from `start` up to `end`. Raises StorageError."""
    path = local_path(uri)
    if path is None:
        with _remote(uri) as (fs, remote):
            content = bytes(fs.cat_file(remote, start=start, end=end))
    else:
        with _mounted(uri), path.open("rb") as stream:
            stream.seek(start)
            content = stream.read(end - start)
    if len(content) != end - start:
        raise StorageError(f"{uri}: ends at byte {start + len(content)}, expected {end}")
    return content


def sha256(uri: str) -> str:
    """SHA-256 of the file at `uri` in hex. The file is read in chunks. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        with _mounted(uri):
            return file_sha256(path)
    with _remote(uri) as (fs, remote), fs.open(remote, "rb", block_size=_CHUNK) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def entry_at(uri: str, path: str) -> ManifestEntry:
    """The entry of the file at `path` in the folder at `uri`, as it is now. Raises StorageError."""
    file = join(uri, path)
    local = local_path(file)
    if local is not None:
        with _mounted(file):
            return ManifestEntry.of(local, path)
    with _remote(file) as (fs, remote):
        size = int(fs.size(remote))
    return ManifestEntry(path=path, size=size, sha256=sha256(file))


def manifest_of(uri: str) -> Manifest:
    """The manifest of all files below the folder at `uri`, as they are now. Each file is read once, and none is kept.

    Raises StorageError.
    """
    paths = sorted(path for path in _files(uri) if counts(path))
    if len(paths) > MAX_FILES:
        raise StorageError(f"{uri}: has {len(paths)} files, more than {MAX_FILES}: give the folder of one model")
    with ThreadPoolExecutor(_READERS) as readers:
        return Manifest(files=list(readers.map(partial(entry_at, uri), paths)))


def _files(uri: str) -> list[str]:
    """The paths of all files below the folder at `uri`, relative to it. Raises StorageError."""
    folder = local_path(uri)
    if folder is not None:
        with _mounted(uri):
            return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    with _remote(uri) as (fs, remote):
        return [path.removeprefix(remote.rstrip("/") + "/") for path in fs.find(remote)]


def write_text(uri: str, text: str) -> None:
    """Write a small text file atomically. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        _stage(path, text).rename(path)
        return
    with _remote(uri) as (fs, remote):
        fs.pipe_file(remote, text.encode())


def read_files(uri: str, pattern: str) -> Iterator[bytes]:
    """Contents of the files that match below the folder at `uri`, sorted by path; nothing if the folder is missing.

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
    """Write a small text file atomically, unless it exists. Only one of several writers succeeds.

    Returns whether this call wrote it. Raises StorageError.
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
    """A local path of the file at `uri`, downloaded into `scratch` unless it is mounted. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        if not path.is_file():
            raise StorageError(f"{uri}: no such file")
        return path
    target = scratch / f"{uuid.uuid4().hex}-{uri.rstrip('/').rsplit('/', 1)[-1]}"
    with _remote(uri) as (fs, remote):
        fs.get_file(remote, str(target))
    return target


def fetch_folder(
    uri: str, destination: Path, digest: str | None = None, verify: bool = True, skip: Collection[str] = ()
) -> Manifest:
    """Copy the folder at `uri` to `destination` and verify the copy.

    A folder without manifest.json is accepted only if no `digest` is given. Files whose suffix is in
    `skip` are neither copied from remote storage nor verified.

    Returns:
        The manifest of the copy.

    Raises:
        StorageError: the folder can't be read.
        ManifestError: the content does not match the manifest or the digest.
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
            _get(fs, remote.rstrip("/"), destination, skip)
    if digest is None and not (destination / MANIFEST).exists():
        return Manifest.of(destination)
    manifest = Manifest.read(destination)
    if verify:
        manifest.verify(destination, digest, skip)
    return manifest


def publish(folder: Path, uri: str) -> Manifest:
    """Copy `folder` to `uri`, with the manifest last, so that an incomplete copy has none. Idempotent."""
    manifest = Manifest.of(folder)
    manifest.write(folder)
    path = local_path(uri)
    if path is not None:
        _publish_local(folder, path)
        return manifest
    for name in [*(entry.path for entry in manifest.files), MANIFEST]:
        put_file(folder / name, join(uri, name))
    return manifest


def _get(fs: Any, remote: str, destination: Path, skip: Collection[str]) -> None:
    if not skip:
        fs.get(remote + "/", str(destination), recursive=True)
        return
    for path in fs.find(remote):
        target = destination / path.removeprefix(remote + "/")
        if target.suffix not in skip:
            target.parent.mkdir(parents=True, exist_ok=True)
            fs.get_file(path, str(target))


@contextmanager
def new_file(uri: str, scratch: Path) -> Iterator[Path]:
    """A path to write the file at `uri` to: when the block ends, the file is at `uri`, complete. Raises StorageError.

    The path is in `scratch` if `uri` is not mounted.
    """
    path = local_path(uri)
    name = f".{uuid.uuid4().hex[:8]}-{uri.rpartition('/')[2]}"
    staged = (scratch if path is None else path.parent) / name
    staged.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield staged
        if path is None:
            put_file(staged, uri)
        else:
            staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def complete(folder: Path, uri: str, entries: Iterable[ManifestEntry]) -> Manifest:
    """Add the files of `folder` to those that are at `uri` already, `entries`, and the manifest of all of them last."""
    own = Manifest.of(folder)
    for entry in own.files:
        put_file(folder / entry.path, join(uri, entry.path))
    manifest = Manifest(files=sorted([*own.files, *entries], key=lambda entry: entry.path))
    write_text(join(uri, MANIFEST), manifest.document)
    return manifest


def put_file(source: Path, uri: str) -> None:
    """Copy a file to `uri`, where it appears complete."""
    if local_path(uri) is not None:
        with new_file(uri, source.parent) as path:
            shutil.copyfile(source, path)
        return
    with _remote(uri) as (fs, remote):
        fs.put_file(str(source), remote)


def _copy(source: Path, destination: Path) -> None:
    """Copy contents without modes and times: a pod may not set those of a volume's root folder.

    shutil.copytree sets them and fails: https://github.com/python/cpython/issues/81004
    """
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
    if path.exists():  # rename instead of deleting first, so that readers miss the folder only for a moment
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
        os.link(staged, path)  # unlike a rename, a link never replaces an existing file
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise
        # The file system has no links. Another writer may still create the file between the check and the rename.
        if path.exists():
            return False
        staged.replace(path)
        return True
    finally:
        staged.unlink(missing_ok=True)


@contextmanager
def _mounted(uri: str) -> Iterator[None]:
    """Every error of the file system inside the block becomes a StorageError."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{uri}: {error.strerror}", passing=not isinstance(error, _FINAL)) from error


@contextmanager
def _remote(uri: str) -> Iterator[tuple[Any, str]]:
    """fsspec's file system for `uri`, and the path in it. Every error inside the block becomes a StorageError."""
    import fsspec  # only pods have fsspec, and only these schemes need it

    try:
        yield fsspec.core.url_to_fs(uri)
    except StorageError:
        raise
    except Exception as error:  # every storage client has its own exception types
        final = isinstance(error, _FINAL) or type(error).__name__ in _NO_CREDENTIALS
        raise StorageError(f"{uri}: {str(error) or type(error).__name__}", passing=not final) from error

"""Storage by URI, for the pods: the operator never opens a user's storage.

A `pvc://` URI is a mounted folder; the others go through fsspec, with credentials from the environment.
"""

import os
import shutil
import uuid
from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.names import VOLUMES, VOLUMES_ENV


class StorageError(ValueError):
    """A URI can't be read or written; the message names the URI and the fix."""


def local_path(uri: str) -> Path | None:
    """The mounted path of a `pvc://claim/path` URI; None for the other schemes."""
    scheme, _, rest = uri.partition("://")
    if scheme != "pvc":
        return None
    parts = [part for part in rest.split("/") if part]
    if not parts or any(part in (".", "..") for part in parts):
        raise StorageError(f"{uri}: expected pvc://claim/path")
    return Path(os.environ.get(VOLUMES_ENV, VOLUMES), *parts)


def join(uri: str, *parts: str) -> str:
    """`uri` with path parts added."""
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def exists(uri: str) -> bool:
    """Whether there is a file or folder at `uri`."""
    path = local_path(uri)
    if path is not None:
        return path.exists()
    fs, remote = _filesystem(uri)
    return bool(fs.exists(remote))


def read_text(uri: str) -> str | None:
    """The small text file at `uri`; None when there is none."""
    path = local_path(uri)
    if path is not None:
        return path.read_text() if path.is_file() else None
    fs, remote = _filesystem(uri)
    return str(fs.read_text(remote)) if fs.exists(remote) else None


def write_text(uri: str, text: str) -> None:
    """Write a small text file, whole or not at all."""
    path = local_path(uri)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f".{uuid.uuid4().hex[:8]}-{path.name}")
        staged.write_text(text)
        staged.rename(path)
        return
    fs, remote = _filesystem(uri)
    fs.write_text(remote, text)


def fetch_file(uri: str, scratch: Path) -> Path:
    """A local path of the file at `uri`, downloaded into `scratch` where it isn't mounted. Raises StorageError."""
    path = local_path(uri)
    if path is not None:
        if not path.is_file():
            raise StorageError(f"{uri}: no such file")
        return path
    target = scratch / f"{uuid.uuid4().hex}-{uri.rstrip('/').rsplit('/', 1)[-1]}"
    fs, remote = _filesystem(uri)
    try:
        fs.get_file(remote, str(target))
    except (OSError, ValueError) as error:
        raise StorageError(f"{uri}: {error}") from error
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
        fs, remote = _filesystem(uri)
        try:
            fs.get(remote.rstrip("/") + "/", str(destination), recursive=True)
        except (OSError, ValueError) as error:
            raise StorageError(f"{uri}: {error}") from error
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
    fs, remote = _filesystem(uri)
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
    if path.exists():
        shutil.rmtree(path)
    staged.rename(path)


def _filesystem(uri: str):  # type: ignore[no-untyped-def]  # fsspec has no types
    import fsspec  # only pods have it, and only these schemes need it

    try:
        return fsspec.core.url_to_fs(uri)
    except (ImportError, ValueError) as error:
        raise StorageError(f"{uri}: {error}") from error

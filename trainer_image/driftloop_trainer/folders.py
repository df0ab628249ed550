"""Folders in storage, as stages find and leave them."""

from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.result import AnyResult, decode
from driftloop.contract.storage import StorageError, exists, fetch_folder, join, local_path, read_text, write_text

_RESULT = ".result.json"  # hidden: the digest of a folder doesn't cover what was said about it


def open_folder(uri: str, scratch: Path, digest: str | None = None) -> Path:
    """A verified local path of the folder at `uri`: in place where it is mounted, else copied into `scratch`.

    Raises StorageError when it isn't there, ManifestError when its content is not what was promised.
    """
    path = local_path(uri)
    if path is None:
        fetch_folder(uri, scratch, digest)
        return scratch
    if not path.is_dir():
        raise StorageError(f"{uri}: no such folder")
    if digest is not None or (path / MANIFEST).exists():
        Manifest.read(path).verify(path, digest)
    return path


def finished(output: str, scratch: Path) -> AnyResult | None:
    """The result that an earlier run left with a whole folder at `output`; None when there is none to trust."""
    document = read_text(join(output, _RESULT))
    if document is None or not exists(join(output, MANIFEST)):
        return None
    open_folder(output, scratch)
    return decode(document)


def record(output: str, result_document: str) -> None:
    """Keep the result beside the folder's manifest, for `finished`."""
    write_text(join(output, _RESULT), result_document)

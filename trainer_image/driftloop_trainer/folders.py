"""Folders in storage that stages read and write."""

from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.result import AnyResult, decode
from driftloop.contract.uris import join
from driftloop.podlib.storage import StorageError, create_text, exists, fetch_folder, local_path, read_text, write_text

_RESULT = ".result.json"  # hidden, as a folder's digest must not cover the stage's result


def open_folder(uri: str, scratch: Path, digest: str | None = None) -> Path:
    """A verified local path of the folder at `uri`: the mounted folder itself, or a copy in `scratch`.

    Raises StorageError if it doesn't exist, ManifestError if its content doesn't match manifest or digest.
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
    """The result of an earlier run at `output`, if its folder is complete; else None."""
    document = read_text(join(output, _RESULT))
    if document is None:
        return None
    result = decode(document)
    folder = getattr(result, "uri", output)  # in training, each driver writes its model into its own folder
    if not exists(join(folder, MANIFEST)):
        return None
    open_folder(folder, scratch)
    return result


def record(output: str, result_document: str) -> None:
    """Write the result next to the folder's manifest, for `finished`."""
    write_text(join(output, _RESULT), result_document)


def record_once(output: str, result_document: str) -> AnyResult:
    """Write the result unless another driver already has. Returns the result that was written first."""
    uri = join(output, _RESULT)
    create_text(uri, result_document)
    return decode(read_text(uri) or result_document)

"""Folders in storage, as stages find and leave them."""

from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.contract.result import AnyResult, decode
from driftloop.contract.uris import join
from driftloop.podlib.storage import StorageError, create_text, exists, fetch_folder, local_path, read_text, write_text

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
    """The result that an earlier run recorded at `output`, with a whole folder; None when there is none to trust."""
    document = read_text(join(output, _RESULT))
    if document is None:
        return None
    result = decode(document)
    folder = getattr(result, "uri", output)  # a training leaves each driver's model in a folder of its own
    if not exists(join(folder, MANIFEST)):
        return None
    open_folder(folder, scratch)
    return result


def record(output: str, result_document: str) -> None:
    """Keep the result beside the folder's manifest, for `finished`."""
    write_text(join(output, _RESULT), result_document)


def record_once(output: str, result_document: str) -> AnyResult:
    """Keep the result for `finished` unless another driver has: the result that counts, ours or the other's."""
    uri = join(output, _RESULT)
    create_text(uri, result_document)
    return decode(read_text(uri) or result_document)

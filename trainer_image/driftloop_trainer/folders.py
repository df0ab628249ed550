"""Folders in storage that stages read and write."""

from pathlib import Path
from typing import TypeVar

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.contract.result import AnswerResult, EvaluateResult, PrepareResult, TrainResult, decode, encode
from driftloop.contract.uris import join
from driftloop.podlib import safety
from driftloop.podlib.storage import (
    StorageError,
    create_text,
    exists,
    fetch_folder,
    local_path,
    read_text,
    sha256,
    write_text,
)

R = TypeVar("R", bound=PrepareResult | TrainResult | AnswerResult | EvaluateResult)

_RESULT = ".result.json"  # hidden, as a folder's digest must not cover the stage's result
# Files that may have hundreds of gigabytes: a model's weights, and the same in formats that are not loaded.
WEIGHTS = safety.PICKLED | {".safetensors", ".gguf", ".h5", ".msgpack", ".onnx"}


def open_folder(
    uri: str, scratch: Path, digest: str | None = None, weights: bool = True, manifest: Manifest | None = None
) -> Path:
    """A verified local path of the folder at `uri`: the mounted folder itself, or a copy in `scratch`.

    Without `weights`, a model's weights are neither copied nor verified: see `verify_weights`.
    `manifest`: of a folder that has none itself. A copy gets it.

    Raises StorageError if it doesn't exist, ManifestError if its content doesn't match manifest or digest.
    """
    skip = frozenset() if weights else WEIGHTS
    path = local_path(uri)
    if path is None:
        fetch_folder(uri, scratch, digest, skip=skip)
        if manifest is not None:
            manifest.verify(scratch, skip=skip)
            manifest.write(scratch)
        return scratch
    if not path.is_dir():
        raise StorageError(f"{uri}: no such folder")
    if manifest is not None:
        manifest.verify(path, skip=skip)
    elif digest is not None or (path / MANIFEST).exists():
        Manifest.read(path).verify(path, digest, skip)
    return path


def verify_weights(uri: str, folder: Path, manifest: Manifest | None = None) -> None:
    """Check the weights at `uri` against the manifest in `folder`, if there is one, without keeping a copy of them.

    `manifest`: of a folder that has none itself. Raises StorageError, or ManifestError.
    """
    if manifest is None and not (folder / MANIFEST).exists():
        return
    for entry in (manifest or Manifest.read(folder)).files:
        if Path(entry.path).suffix in WEIGHTS and sha256(join(uri, entry.path)) != entry.sha256:
            raise ManifestError(f"content of {entry.path} does not match the manifest")


def finished(output: str, kind: type[R], scratch: Path) -> R | None:
    """The result of an earlier run at `output`, if it is of this kind and its folder is complete; else None."""
    document = read_text(join(output, _RESULT))
    if document is None:
        return None
    result = decode(document)
    if not isinstance(result, kind):
        return None
    folder = result.uri  # in training, each driver writes its model into its own folder
    if not exists(join(folder, MANIFEST)):
        return None
    verify_weights(folder, open_folder(folder, scratch, weights=False))
    return result


def record(output: str, result_document: str) -> None:
    """Write the result next to the folder's manifest, for `finished`."""
    write_text(join(output, _RESULT), result_document)


def record_once(output: str, result: R) -> R:
    """Write the result unless another driver already has. Returns the result that was written first."""
    uri = join(output, _RESULT)
    create_text(uri, encode(result))
    first = decode(read_text(uri) or encode(result))
    return first if isinstance(first, type(result)) else result

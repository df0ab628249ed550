"""A version that is an adapter alone: what it was trained on, and whether that is still there.

It adds to its base's weights, so a pod that needs a whole model merges the two (merging.py). `bases` are the folders
that the adapter at a URI needs: its base and, if that is an adapter too, the base of that, up to the whole model.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestEntry, ManifestError
from driftloop.contract.modelfolder import ADAPTER_BASE, ADAPTER_WEIGHTS, INDEX, SINGLE, AdapterBase
from driftloop.contract.uris import join
from driftloop.podlib.storage import StorageError, entry_at, fetch_file, read_text


def read_base(uri: str) -> AdapterBase:
    """What the adapter at `uri` was trained on. Raises StorageError, or ManifestError if the folder has no adapter."""
    document = read_text(join(uri, ADAPTER_BASE))
    if document is None:
        raise ManifestError(f"{uri} has no {ADAPTER_BASE}, which says what the adapter is merged onto")
    try:
        return AdapterBase.model_validate_json(document)
    except ValueError as error:
        raise ManifestError(f"{join(uri, ADAPTER_BASE)} can't be read: {error}") from error


def base_files(uri: str, bases: Sequence[str], folder: Path) -> list[ManifestEntry]:
    """The files of the model at `uri` that an adapter on it depends on, as they are now.

    `folder`: its small files. Their manifest tells the hashes, if there is one: it must have been verified. Otherwise
    the files are read once. Raises StorageError and ManifestError.
    """
    names = [ADAPTER_BASE, ADAPTER_WEIGHTS] if bases else weight_files(uri)
    known = {entry.path: entry for entry in Manifest.read(folder).files} if (folder / MANIFEST).exists() else {}
    return [known.get(name) or entry_at(uri, name) for name in names]


def weight_files(uri: str) -> list[str]:
    """The names of the files with a whole model's weights, and before them that of their index. Raises StorageError."""
    index = read_text(join(uri, INDEX))
    if index is None:
        return [SINGLE]
    try:
        return [INDEX, *sorted(set(json.loads(index)["weight_map"].values()))]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise StorageError(f"{join(uri, INDEX)} can't be read: {error!r}") from error


def entries_of_base(adapter: str, left: int) -> list[ManifestEntry]:
    """The files that the base of the adapter at `adapter` must have. `left`: the number of folders behind that base.

    Raises StorageError and ManifestError.
    """
    entries = read_base(adapter).files
    if any(entry.path == ADAPTER_BASE for entry in entries) != (left > 0):
        raise ManifestError(
            f"{adapter} is an adapter: artefact.bases must be the folder of its base, and so on up to a whole model"
        )
    return entries


def verify_bases(uri: str, bases: Sequence[str]) -> None:
    """Check that `bases` have what the adapter at `uri` was trained on. Raises StorageError and ManifestError."""
    adapter = uri
    for number, base in enumerate(bases, start=1):
        entries = entries_of_base(adapter, len(bases) - number)
        with of_a_base():
            for entry in entries:
                check_entry(base, entry, entry_at(base, entry.path))
        adapter = base


def fetch_adapters(adapter: str, bases: Sequence[str], scratch: Path) -> list[str]:
    """The URIs of `adapter` and of the adapters below it, whose verified files are copied into `scratch`.

    Raises StorageError and ManifestError.
    """
    adapters = [adapter]
    for number, base in enumerate(bases[:-1], start=1):
        copy = scratch / f"{number}"
        for entry in entries_of_base(adapters[-1], len(bases) - number):
            with fetched(base, entry, scratch) as path:
                copy.mkdir(exist_ok=True)
                shutil.copyfile(path, copy / entry.path)
        adapters.append(uri_of(copy))
    return adapters


@contextmanager
def fetched(base: str, entry: ManifestEntry, scratch: Path) -> Iterator[Path]:
    """The verified file of a base: the mounted one, or a copy that is deleted at the end of the block."""
    with of_a_base():
        path = fetch_file(join(base, entry.path), scratch)
    try:
        check_entry(base, entry, ManifestEntry.of(path, entry.path))
        yield path
    finally:
        if path.parent == scratch:
            path.unlink()


def uri_of(path: Path) -> str:
    """A URI by which storage.py reads a local file or folder."""
    return f"file://{path.resolve()}"


def check_entry(base: str, entry: ManifestEntry, found: ManifestEntry) -> None:
    """Raises ManifestError if a file of a base is not the one that its adapter was trained on."""
    if (found.size, found.sha256) != (entry.size, entry.sha256):
        raise ManifestError(
            f"{join(base, entry.path)} is not the file that the adapter was trained on, so the adapter can't be merged "
            "onto it: restore the file, or train again"
        )


@contextmanager
def of_a_base() -> Iterator[None]:
    """Tell of which folder an error of storage is: nobody has named a base's folder."""
    try:
        yield
    except StorageError as error:
        message = f"the version is an adapter, whose base can't be read: {error}: restore it, or train again"
        raise StorageError(message, error.passing) from error

"""Merge a version that is an adapter alone into a whole model folder, for engines and for users' own trainings."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from driftloop.contract.manifest import ManifestEntry, ManifestError
from driftloop.contract.modelfolder import ADAPTER_FILES, INDEX
from driftloop.contract.uris import join
from driftloop.podlib.adapters import check_entry, entries_of_base, of_a_base, read_base
from driftloop.podlib.storage import fetch_file
from driftloop.podlib.tensors import Tensor, tensors_of, with_adapter, write_tensors


def merge(folder: Path, bases: Sequence[str]) -> None:
    """Make a folder with a verified adapter the whole model: the adapter's files give way to the merged weights.

    The disk never has more than the merged model and one file of the base, and memory no more than some rows of a
    tensor. Raises StorageError, ManifestError and OSError.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=".base-") as name:
        scratch, adapters = Path(name), [_uri(folder)]
        for number, base in enumerate(bases[:-1], start=1):
            copy = scratch / f"{number}"
            for entry in entries_of_base(adapters[-1], len(bases) - number):
                with _fetched(base, entry, scratch) as path:
                    copy.mkdir(exist_ok=True)
                    shutil.copyfile(path, copy / entry.path)
            adapters.append(_uri(copy))
        unmerged = {weight for adapter in adapters for weight in read_base(adapter).weights}
        for entry in entries_of_base(adapters[-1], 0):
            with _fetched(bases[-1], entry, scratch) as path:
                if entry.path == INDEX:
                    shutil.copyfile(path, folder / INDEX)
                else:
                    unmerged -= _write_merged(path, adapters, folder / entry.path)
    if unmerged:
        raise ManifestError(f"{bases[-1]} has no {min(unmerged)}, to which the adapter adds")
    for file in ADAPTER_FILES:
        (folder / file).unlink()


def _write_merged(source: Path, adapters: Sequence[str], target: Path) -> set[str]:
    """Write one file of the base with the changes of the adapters, the last one's first. Returns the tensors' names."""
    tensors: dict[str, Tensor] = dict(tensors_of(_uri(source)))
    for adapter in reversed(adapters):
        tensors = with_adapter(tensors, adapter)
    write_tensors(tensors, target)
    return set(tensors)


@contextmanager
def _fetched(base: str, entry: ManifestEntry, scratch: Path) -> Iterator[Path]:
    """The verified file of a base: the mounted one, or a copy that is deleted at the end of the block."""
    with of_a_base():
        path = fetch_file(join(base, entry.path), scratch)
    try:
        check_entry(base, entry, ManifestEntry.of(path, entry.path))
        yield path
    finally:
        if path.parent == scratch:
            path.unlink()


def _uri(path: Path) -> str:
    """A URI by which storage.py reads a local file or folder."""
    return f"file://{path.resolve()}"

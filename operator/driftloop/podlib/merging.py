"""Merge a version that is an adapter alone into a whole model folder, for engines and for users' own trainings.

Or write only what the adapter was trained on, for an engine that adds the adapter to it by itself.
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from driftloop.contract.manifest import ManifestError
from driftloop.contract.modelfolder import ADAPTER_FILES, INDEX
from driftloop.podlib.adapters import entries_of_base, fetch_adapters, fetched, read_base, uri_of
from driftloop.podlib.tensors import Tensor, as_trained_on, tensors_of, with_adapter, write_tensors

# From the tensors of a base, and where its adapter is, to those of a model.
_Step = Callable[[Mapping[str, Tensor], str], dict[str, Tensor]]


def merge(folder: Path, bases: Sequence[str]) -> None:
    """Make a folder with a verified adapter the whole model: the adapter's files give way to the merged weights.

    The disk never has more than the merged model and one file of the base, and memory no more than some rows of a
    tensor. Raises StorageError, ManifestError and OSError.
    """
    _write_whole(folder, bases, with_adapter)
    for file in ADAPTER_FILES:
        (folder / file).unlink()


def write_base(folder: Path, bases: Sequence[str]) -> None:
    """Write the weights that the verified adapter in `folder` was trained on beside it: merged, if they had adapters.

    Raises like merge.
    """
    _write_whole(folder, bases, as_trained_on)


def _write_whole(folder: Path, bases: Sequence[str], last: _Step) -> None:
    """Write the files of the whole model into the folder of an adapter. `last`: what is done with this adapter."""
    with tempfile.TemporaryDirectory(dir=folder, prefix=".base-") as name:
        scratch = Path(name)
        adapters = fetch_adapters(uri_of(folder), bases, scratch)
        unmerged = {weight for adapter in adapters for weight in read_base(adapter).weights}
        for entry in entries_of_base(adapters[-1], 0):
            with fetched(bases[-1], entry, scratch) as path:
                if entry.path == INDEX:
                    shutil.copyfile(path, folder / INDEX)
                else:
                    unmerged -= _write_file(path, adapters, last, folder / entry.path)
    if unmerged:
        raise ManifestError(f"{bases[-1]} has no {min(unmerged)}, to which the adapter adds")


def _write_file(source: Path, adapters: Sequence[str], last: _Step, target: Path) -> set[str]:
    """Write one file of the base with the changes of the adapters, the last one's first. Returns the tensors' names."""
    tensors: dict[str, Tensor] = dict(tensors_of(uri_of(source)))
    for adapter in reversed(adapters[1:]):
        tensors = with_adapter(tensors, adapter)
    tensors = last(tensors, adapters[0])
    write_tensors(tensors, target)
    return set(tensors)

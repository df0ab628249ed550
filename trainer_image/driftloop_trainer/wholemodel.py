"""A model folder with all its weights on this machine, for what can't read slices of them from storage."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest
from driftloop.podlib.merging import merge
from driftloop.podlib.storage import fetch_folder, local_path


@contextmanager
def with_weights(folder: Path, uri: str, bases: Sequence[str] = ()) -> Iterator[Path]:
    """A local folder of the model at `uri` with its weights. `folder`: as `open_folder` returned it without them.

    From a bucket it is a copy, which is deleted at the end of the block: it must be what the manifest in `folder` says.
    So it is if the model is an adapter, which is merged onto its `bases`. Raises StorageError or ManifestError.
    """
    if local_path(uri) is not None and not bases:
        yield folder
        return
    digest = Manifest.read(folder).digest if (folder / MANIFEST).exists() else None
    with tempfile.TemporaryDirectory(prefix="whole-") as scratch:
        copy_model(uri, Path(scratch), digest, bases)
        yield Path(scratch)


def copy_model(uri: str, folder: Path, digest: str | None, bases: Sequence[str]) -> None:
    """Copy the model at `uri` into an empty folder, whole: an adapter is merged onto its `bases`.

    Raises StorageError or ManifestError.
    """
    fetch_folder(uri, folder).check(digest)  # of a folder without manifest.json, the digest is that of its copy
    if bases:
        merge(folder, bases)

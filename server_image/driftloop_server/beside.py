"""A version that is an adapter alone, laid out for an engine that adds it to its base by itself.

`task.model_dir` gets the base's weights, beside the version's own configuration and tokenizer. The adapter's files go
to `task.adapter_dir`, where the engine does not take them for weights of the model. An adapter on an adapter becomes
one adapter on the whole model, so all versions on that model share its files.
"""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from driftloop.contract.manifest import Manifest, ManifestEntry, ManifestError
from driftloop.contract.modelfolder import ADAPTER_CONFIG, ADAPTER_FILES
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import ServeTask
from driftloop.contract.uris import join
from driftloop.podlib.adapters import check_entry, entries_of_base, fetch_adapters, of_a_base, read_base, uri_of
from driftloop.podlib.ending import BadInput
from driftloop.podlib.storage import fetch_file
from driftloop_server.modelcache import ModelCache

_STAGED = ".base"  # folder of the base's files until all of them are verified


def lay_out(task: ServeTask, folder: Path, cache: ModelCache | None) -> None:
    """Bring the base of the verified adapter in `folder`. Raises BadInput, StorageError, ManifestError and OSError."""
    limit = task.adapters.max_rank if task.adapters else 0
    _check_rank(folder, limit)
    target = Path(task.adapter_dir)
    target.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".adapters-") as name:
        adapters = fetch_adapters(uri_of(folder), task.artefact_bases, Path(name))
        entries = entries_of_base(adapters[-1], 0)
        if _write_one(adapters, folder, target, limit):
            _bring_as_it_is(folder, entries, task.artefact_bases[-1], cache)
            return
    from driftloop.podlib.merging import write_base  # it imports torch, which takes seconds

    write_base(folder, task.artefact_bases)
    _move(folder, target)


def _check_rank(folder: Path, limit: int) -> None:
    try:
        rank = int(json.loads((folder / ADAPTER_CONFIG).read_bytes())["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{ADAPTER_CONFIG} has no rank: {error!r}") from error
    if rank > limit:
        message = f"the adapter has rank {rank}: set engine.adapters.maxRank to {rank} or more"
        raise BadInput(StageReason.RANK_TOO_LARGE, message)


def _write_one(adapters: Sequence[str], folder: Path, target: Path, limit: int) -> bool:
    """Write the adapters as one on the whole model below them.

    Returns False, and writes nothing, if that is impossible: one was trained on rounded weights, or together their rank
    is too large.
    """
    if any(read_base(adapter).in_4_bits for adapter in adapters):
        return False
    if len(adapters) == 1:
        _move(folder, target)
        return True
    from driftloop.podlib.stacking import read_adapter, stack  # it imports torch

    those = [read_adapter(adapter) for adapter in adapters]
    if sum(adapter.rank for adapter in those) > limit:
        return False
    stack(those, folder / ADAPTER_CONFIG, target)
    for name in ADAPTER_FILES:
        (folder / name).unlink()
    return True


def _move(folder: Path, target: Path) -> None:
    for name in ADAPTER_FILES:
        (folder / name).rename(target / name)


def _bring_as_it_is(folder: Path, entries: list[ManifestEntry], base: str, cache: ModelCache | None) -> None:
    """Bring the files of a whole model, from the cache if that has them: they are the same for all its adapters."""
    staged, manifest = folder / _STAGED, Manifest(files=entries)
    cached = cache.bring(manifest.digest, staged) if cache else None
    if not cached:
        _download(entries, base, staged)
    if cache and not cached:
        manifest.write(staged)
        cache.keep(manifest, staged)
    for entry in entries:
        (staged / entry.path).rename(folder / entry.path)
    shutil.rmtree(staged)


def _download(entries: list[ManifestEntry], base: str, staged: Path) -> None:
    """Copy the files of a base, each verified once it is copied."""
    for entry in entries:
        target = staged / entry.path
        target.parent.mkdir(parents=True, exist_ok=True)
        with of_a_base():
            found = fetch_file(join(base, entry.path), staged)
        if found.parent == staged:
            found.rename(target)
        else:
            shutil.copyfile(found, target)
        check_entry(base, entry, ManifestEntry.of(target, entry.path))

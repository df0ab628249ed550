"""`python -m driftloop_server.fetch`: copy the model folder into the pod and verify its digest.

A version that is an adapter alone is merged onto its base here, so that every engine gets a whole model; or brought
beside its base, for an engine that adds it by itself (beside.py).
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import ServeTask
from driftloop.podlib import logs, safety
from driftloop.podlib.ending import BadInput, StageFailure, TryAgain, exit_on_sigterm, report
from driftloop.podlib.storage import StorageError, fetch_folder
from driftloop.podlib.templatefile import set_in_folder
from driftloop_server.beside import lay_out
from driftloop_server.modelcache import ModelCache
from driftloop_server.stage import serve_task

log = logging.getLogger("driftloop_server.fetch")  # run as __main__


def fetch(task: ServeTask) -> Manifest:
    """Copy the artefact into `task.model_dir`, verify it, and set the service's chat template.

    Raises BadInput when the content does not match the digest or could run code, TryAgain when it can't be read.
    """
    folder = Path(task.model_dir)
    try:
        manifest = _brought(task, folder)
        _check_kind(folder, task.artefact_bases)
        if task.serves_adapter:
            lay_out(task, folder, _cache(task))
        else:
            _merge(folder, task.artefact_bases)
    except ManifestError as error:
        raise BadInput(StageReason.DIGEST_MISMATCH, f"{task.artefact_uri}: {error}") from error
    except (StorageError, OSError) as error:
        raise TryAgain(StageReason.STORAGE_UNREADABLE, f"{task.artefact_uri}: {error}") from error
    refuse_code(folder)
    try:
        set_in_folder(folder, task.chat_template, task.chat_template_kwargs)
    except ValueError as error:
        raise BadInput(StageReason.NO_CHAT_TEMPLATE, f"engine.{error}") from error
    return manifest


def _brought(task: ServeTask, folder: Path) -> Manifest:
    """Copy the artefact into `folder`, from the cache if that has it. Raises like fetch_folder."""
    cache = None if task.artefact_bases else _cache(task)
    cached = cache.bring(task.artefact_digest, folder) if cache else None
    manifest = cached or fetch_folder(task.artefact_uri, folder, task.artefact_digest)
    _drop_unlisted(folder, manifest)
    if cache and not cached:
        cache.keep(manifest, folder)
    return manifest


def _cache(task: ServeTask) -> ModelCache | None:
    return ModelCache(task.cache_uri, task.cache_bytes) if task.cache_uri else None


def _check_kind(folder: Path, bases: Sequence[str]) -> None:
    """Raise BadInput for an adapter without bases, and for bases without an adapter."""
    field = "spec.artefact.bases of the ModelVersion"
    if safety.has_adapter(folder) and not bases:
        message = f"the version is an adapter: name the folder of its base in {field}, or merge it"
        raise BadInput(StageReason.MODEL_NOT_FOUND, message)
    if bases and not safety.has_adapter(folder):
        raise BadInput(StageReason.MODEL_NOT_FOUND, f"the version is not an adapter: remove {field}")


def _merge(folder: Path, bases: Sequence[str]) -> None:
    """Merge an adapter onto its bases, if it has some. Raises ManifestError, StorageError or OSError."""
    if bases:
        from driftloop.podlib.merging import merge  # it imports torch, which takes seconds and only adapters need

        merge(folder, bases)


def refuse_code(folder: Path) -> None:
    """Raise BadInput if `folder` has no safetensors weights or no config, or has files that can run code."""
    for path in safety.pickled(folder):
        raise BadInput(
            StageReason.PICKLE_WEIGHTS,
            f"{path.relative_to(folder)}: pickled files can run code; save the model as safetensors",
        )
    if not safety.has_safetensors(folder):
        raise BadInput(StageReason.MODEL_NOT_FOUND, "the model folder has no .safetensors file")
    if not (folder / "config.json").is_file():
        raise BadInput(StageReason.MODEL_NOT_FOUND, "the model folder has no config.json")
    try:
        name = safety.brings_code(folder)
    except safety.UnreadableConfig as error:
        raise BadInput(StageReason.MODEL_NOT_FOUND, str(error)) from error
    if name is not None:
        raise BadInput(StageReason.REMOTE_CODE, f"{name} has auto_map: models with their own code are not loaded")


def _drop_unlisted(folder: Path, manifest: Manifest) -> None:
    """Delete files that the manifest doesn't list: the digest doesn't cover them, so the engine must not read them."""
    listed = {entry.path for entry in manifest.files} | {MANIFEST}
    for path in folder.rglob("*"):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def main() -> None:
    logs.setup()
    exit_on_sigterm()
    try:
        task = serve_task()
        manifest = fetch(task)
    except StageFailure as error:
        sys.exit(report(error))
    size = sum(entry.size for entry in manifest.files)
    log.info("%s: %d files, %d bytes, %s", task.version, len(manifest.files), size, manifest.digest)


if __name__ == "__main__":
    main()

"""`python -m driftloop_server.fetch`: bring the model folder into the pod and make sure that it is the one promised."""

import json
import logging
from pathlib import Path

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.contract.task import ServeTask
from driftloop.podlib.storage import StorageError, fetch_folder
from driftloop_server.stage import BadInput, StageFailure, TryAgain, fail, serve_task, setup_logging

log = logging.getLogger("driftloop_server.fetch")  # run as __main__

# Formats that run code when they are read.
_PICKLED = {".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth"}


def fetch(task: ServeTask) -> Manifest:
    """Copy the artefact into `task.model_dir` and verify it.

    Raises BadInput when the content is not what its digest says or could run code, TryAgain when it can't be read.
    """
    folder = Path(task.model_dir)
    try:
        manifest = fetch_folder(task.artefact_uri, folder, task.artefact_digest)
    except ManifestError as error:
        raise BadInput("DigestMismatch", f"{task.artefact_uri}: {error}") from error
    except (StorageError, OSError) as error:
        raise TryAgain("StorageUnreadable", f"{task.artefact_uri}: {error}") from error
    _drop_unlisted(folder, manifest)
    refuse_code(folder)
    return manifest


def refuse_code(folder: Path) -> None:
    """Raises BadInput when `folder` is not a model of safetensors alone."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    for path in files:
        if path.suffix in _PICKLED:
            raise BadInput(
                "UnsafeWeights", f"{path.relative_to(folder)}: pickled files run code; save the model as safetensors"
            )
    if not any(path.suffix == ".safetensors" for path in files):
        raise BadInput("NoWeights", "the model folder has no .safetensors file")
    if not (folder / "config.json").is_file():
        raise BadInput("NoConfig", "the model folder has no config.json; an adapter must be merged before it is served")
    for path in files:
        if path.suffix == ".json" and path.name != MANIFEST and _asks_for_code(path):
            raise BadInput("RemoteCode", f"{path.name} has auto_map: models that bring their own code are not loaded")


def _asks_for_code(path: Path) -> bool:
    if not path.name.endswith("config.json"):
        return False
    try:
        config = json.loads(path.read_bytes())
    except ValueError as error:
        raise BadInput("NoConfig", f"{path.name} is not JSON: {error}") from error
    return isinstance(config, dict) and "auto_map" in config


def _drop_unlisted(folder: Path, manifest: Manifest) -> None:
    """The digest covers what the manifest lists: nothing else may reach the engine."""
    listed = {entry.path for entry in manifest.files} | {MANIFEST}
    for path in folder.rglob("*"):
        if not path.is_dir() and path.relative_to(folder).as_posix() not in listed:
            path.unlink()


def main() -> None:
    setup_logging()
    try:
        task = serve_task()
        manifest = fetch(task)
    except StageFailure as error:
        fail(error)
    size = sum(entry.size for entry in manifest.files)
    log.info("%s: %d files, %d bytes, %s", task.version, len(manifest.files), size, manifest.digest)


if __name__ == "__main__":
    main()

"""The model that a training starts from: the content that prepare has read, with its tokenizer. Without torch."""

from pathlib import Path

from driftloop.contract.manifest import Manifest, ManifestError
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import MODEL_MANIFEST
from driftloop.contract.task import TrainTask
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import read_text
from driftloop_trainer.folders import open_folder
from driftloop_trainer.modelfiles import tokenizer_digest


def open_base(task: TrainTask, scratch: Path) -> Path:
    """A verified local path of the model's folder, without its weights: the mounted folder, or a copy in `scratch`.

    Raises StageFailure if its tokenizer is another one than in prepare, StorageError or ManifestError.
    """
    uri, digest = task.model.uri or "", task.model.digest
    base = open_folder(uri, scratch, digest, weights=False, manifest=made_manifest(task))
    check_tokenizer(base, task)
    return base


def made_manifest(task: TrainTask) -> Manifest | None:
    """The manifest that prepare made of a folder that has none itself; None if it has, or is that of a commit.

    Raises StorageError or ManifestError.
    """
    if task.model.content is None:
        return None
    place = join(task.data_uri, MODEL_MANIFEST)
    try:
        manifest = Manifest.model_validate_json(read_text(place) or "")
    except ValueError as error:
        raise ManifestError(f"{place}, the manifest of the base model, can't be read: {error}") from error
    manifest.check(task.model.content)
    return manifest


def check_tokenizer(base: Path, task: TrainTask) -> None:
    """Check that the tokenizer in `base` is the one whose tokens prepare wrote. Raises StageFailure."""
    expected = task.lineage.tokenizer_digest
    if expected is not None and tokenizer_digest(base, task.training) != expected:
        raise StageFailure(
            StageReason.DIGEST_MISMATCH,
            f"{task.model.uri}: its tokenizer or chat template has changed since the rows were prepared: restore its "
            "files, or create another job",
        )

"""What a training starts from is what prepare has read, also in a folder that has no manifest."""

from pathlib import Path

import pytest

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.manifest import Manifest, ManifestError
from driftloop.contract.result import MODEL_MANIFEST
from driftloop.contract.task import TrainTask
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import manifest_of, put_file, write_text
from driftloop_trainer.modelfiles import tokenizer_digest
from driftloop_trainer.train.base import made_manifest, open_base
from driftloop_trainer.train.cluster.driver import check_inputs
from driftloop_trainer.wholemodel import with_weights
from unit.trainer.train.cluster.test_driver import task

FILES = {"config.json": '{"model_type": "llama"}', "tokenizer.json": "{}", "model.safetensors": "weights"}


@pytest.fixture(params=["pvc://claim/model", "memory://{}/model"])
def prepared(request: pytest.FixtureRequest, volume: Path, tmp_path: Path) -> TrainTask:
    """A training on a copied model, which prepare has read."""
    uri = request.param.format(tmp_path.name)
    write(tmp_path, uri, FILES)
    manifest = manifest_of(uri)
    write_text(f"pvc://claim/data/{MODEL_MANIFEST}", manifest.document)
    (volume / "data" / "rows").write_text("")
    rows = Manifest.of(volume / "data")
    rows.write(volume / "data")
    (tmp_path / "built").mkdir()
    for name, text in FILES.items():
        (tmp_path / "built" / name).write_text(text)
    lineage = {"tokenizerDigest": tokenizer_digest(tmp_path / "built", TrainingSpec())}
    return task(model={"uri": uri, "content": manifest.digest}, lineage=lineage, dataDigest=rows.digest)


def write(tmp_path: Path, uri: str, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        put_file(tmp_path / name, f"{uri}/{name}")


def test_a_model_without_a_manifest_is_opened_if_it_is_the_one_that_was_read(
    prepared: TrainTask, tmp_path: Path
) -> None:
    base = open_base(prepared, tmp_path / "base")
    assert (base / "tokenizer.json").read_text() == "{}"
    with with_weights(base, prepared.model.uri or "") as whole:
        assert (whole / "model.safetensors").read_text() == "weights"
    check_inputs(prepared, tmp_path / "driver")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_file_that_has_changed_since_is_refused_by_each_rank(prepared: TrainTask, tmp_path: Path, name: str) -> None:
    write(tmp_path, prepared.model.uri or "", {name: "[]"})
    with pytest.raises(ManifestError, match=f"content of {name} does not match"):
        open_base(prepared, tmp_path / "base")


def test_weights_that_have_changed_since_are_refused_before_a_worker_starts(
    prepared: TrainTask, tmp_path: Path
) -> None:
    write(tmp_path, prepared.model.uri or "", {"model.safetensors": "Weights"})
    with pytest.raises(ManifestError, match=r"content of model\.safetensors does not match"):
        check_inputs(prepared, tmp_path)


@pytest.mark.parametrize("prepared", ["memory://{}/model"], indirect=True)
def test_a_whole_copy_is_of_what_was_read(prepared: TrainTask, tmp_path: Path) -> None:
    base = open_base(prepared, tmp_path / "base")
    write(tmp_path, prepared.model.uri or "", {"model.safetensors": "Weights"})
    with pytest.raises(ManifestError, match="digest is"), with_weights(base, prepared.model.uri or ""):
        pass


def test_a_manifest_that_is_not_the_one_of_the_task_is_refused(prepared: TrainTask) -> None:
    write_text(f"pvc://claim/data/{MODEL_MANIFEST}", Manifest(files=[]).document)
    with pytest.raises(ManifestError, match="expected sha256:"):
        made_manifest(prepared)
    write_text(f"pvc://claim/data/{MODEL_MANIFEST}", "{")
    with pytest.raises(ManifestError, match=r"\.model\.json, the manifest of the base model, can't be read"):
        made_manifest(prepared)


def test_another_tokenizer_than_that_of_the_rows_is_refused_where_nothing_else_tells(
    prepared: TrainTask, tmp_path: Path
) -> None:
    """As for a branch of the Hub whose mirror tells no commit."""
    model = prepared.model.model_copy(update={"content": None})
    write(tmp_path, model.uri or "", {"tokenizer.json": "[]"})
    with pytest.raises(StageFailure, match=r"DigestMismatch: .*its tokenizer or chat template has changed") as ended:
        open_base(prepared.model_copy(update={"model": model}), tmp_path / "base")
    assert ended.value.exit_code == 78

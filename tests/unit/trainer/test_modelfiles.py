import json
from collections.abc import Callable
from pathlib import Path

import pytest

from driftloop.api.finetunejob import TrainingSpec
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.modelfiles import check_model_files, tokenizer_digest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer_config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_a_whole_folder_is_accepted_and_its_configuration_returned(folder: Path) -> None:
    assert check_model_files(folder, "pvc://claim/model") == {"model_type": "llama"}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "PickleWeights"),
        (lambda f: (f / "model.safetensors").unlink(), "ModelNotFound"),
        (lambda f: (f / "config.json").unlink(), "ModelNotFound"),
        (lambda f: (f / "config.json").write_text("{"), "ModelNotFound"),
        (lambda f: (f / "config.json").write_text("[]"), "ModelNotFound"),
        (lambda f: edit(f / "config.json", auto_map={"AutoModel": "x.Y"}), "RemoteCode"),
        (lambda f: edit(f / "config.json", quantization_config={"quant_method": "gptq", "bits": 4}), "QuantisedModel"),
        (
            lambda f: edit(f / "config.json", text_config={"quantization_config": {"quant_method": "awq"}}),
            "QuantisedModel",
        ),
        (lambda f: (f / "quantize_config.json").write_text("{}"), "QuantisedModel"),
        (lambda f: edit(f / "tokenizer_config.json", auto_map={"AutoTokenizer": "x.Y"}), "RemoteCode"),
    ],
)
def test_a_folder_that_must_not_load_is_refused_with_the_reason(
    folder: Path, break_it: Callable[[Path], object], reason: str
) -> None:
    break_it(folder)
    with pytest.raises(StageFailure, match=rf"{reason}: pvc://claim/model: "):
        check_model_files(folder, "pvc://claim/model")


def test_a_tokenizer_is_told_by_its_own_files_alone(folder: Path) -> None:
    before = tokenizer_digest(folder, TrainingSpec())
    (folder / "model.safetensors").write_bytes(b"other weights")
    assert tokenizer_digest(folder, TrainingSpec()) == before
    edit(folder / "tokenizer.json", version="2")
    assert tokenizer_digest(folder, TrainingSpec()) != before
    kwargs = TrainingSpec(chat_template_kwargs={"enable_thinking": False})
    assert tokenizer_digest(folder, kwargs) != tokenizer_digest(folder, TrainingSpec())

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from driftloop.api.finetunejob import Adapter, NewModel
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.models import check_model_folder, config_for, decoder_layers, load_model, model_facts
from driftloop_trainer.prepare.newmodel import new_config, save_new_model, train_tokenizer
from unit.trainer.conftest import ARCHITECTURE, TEXTS


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Any) -> Path:
    folder = tmp_path / "model"
    save_new_model(new_config(NewModel(architecture=ARCHITECTURE), tokenizer), tokenizer, 1, folder)
    return folder


def test_a_new_model_s_folder_is_accepted_and_loads(folder: Path, tokenizer: Any) -> None:
    check_model_folder(folder, "pvc://claim/model")
    model = load_model(folder, Adapter())
    assert model.config.vocab_size == len(tokenizer)
    assert len(decoder_layers(model)) == 2
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_the_seed_decides_the_weights(folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    save_new_model(new_config(NewModel(architecture=ARCHITECTURE), tokenizer), tokenizer, 1, tmp_path / "same")
    save_new_model(new_config(NewModel(architecture=ARCHITECTURE), tokenizer), tokenizer, 2, tmp_path / "other")
    weights = [(path / "model.safetensors").read_bytes() for path in (folder, tmp_path / "same", tmp_path / "other")]
    assert weights[0] == weights[1] != weights[2]


def test_the_same_texts_give_the_same_tokenizer_and_any_text_encodes() -> None:
    one, other = train_tokenizer(TEXTS, 320), train_tokenizer(TEXTS, 320)
    assert one.get_vocab() == other.get_vocab()
    assert one.decode(one("naïve 東京 🦙")["input_ids"]) == "naïve 東京 🦙"


def test_a_folder_of_another_kind_of_model_is_refused(folder: Path) -> None:
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "hal9000"}))
    with pytest.raises(StageFailure, match="UnknownArchitecture: "):
        check_model_folder(folder, "pvc://claim/model")


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"model_type": "hal9000"}, "UnknownArchitecture"),
        ({}, "UnknownArchitecture"),
        ({"model_type": "vit"}, "UnknownArchitecture"),
        ({"model_type": "llama", "hidden_size": "wide"}, "BadArchitecture"),
    ],
)
def test_an_architecture_that_is_no_causal_model_is_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(StageFailure, match=reason):
        config_for(fields)


def test_facts_count_what_the_model_has(folder: Path) -> None:
    model = load_model(folder, Adapter())
    facts = model_facts(model.config, Adapter())
    assert facts.parameters == facts.trainable_parameters == sum(p.numel() for p in model.parameters())
    assert facts.largest_layer_parameters == sum(p.numel() for p in model.model.layers[0].parameters())
    assert (facts.num_layers, facts.hidden_size, facts.tied_embeddings) == (2, 16, True)


def test_facts_of_lora_count_only_the_adapters_as_trained(folder: Path) -> None:
    adapter = Adapter(type="lora", r=2)
    model = load_model(folder, adapter)
    facts = model_facts(load_model(folder, Adapter()).config, adapter)
    assert facts.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert facts.parameters > 10 * facts.trainable_parameters / 2
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_adapter_modules_that_are_not_there_are_refused(folder: Path) -> None:
    with pytest.raises(StageFailure, match=r"UnknownModules: training\.adapter\.targetModules"):
        load_model(folder, Adapter(type="lora", target_modules=["nowhere"]))

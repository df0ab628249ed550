"""An adapter for an engine that adds it to its base by itself: together they are the version that is merged."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from driftloop.api.engine import EngineAdapters
from driftloop.contract.modelfolder import ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS
from driftloop.contract.task import ModelSource
from driftloop.podlib import safety
from driftloop.podlib.ending import BadInput, TryAgain
from driftloop_server.fetch import fetch
from unit.trainer.train.worker.test_adapter import (
    BASE,
    IDS,
    LORA,
    Trainings,
    base_model,
    same,
    serve_task,
    trainings,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("one_rank")
__all__ = ["trainings"]  # the fixture


def beside(trainings: Trainings, version: ModelSource, name: str = "beside", **fields: Any) -> Path:
    """The folder of a pod whose engine adds the adapter."""
    model = trainings.scratch / name
    fetch(serve_task(version, model).model_copy(update={"adapters": EngineAdapters(max_rank=8)} | fields))
    return model


def answers(model: Path) -> torch.Tensor:
    with torch.no_grad():
        base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        logits: torch.Tensor = PeftModel.from_pretrained(base, str(model / "adapter")).eval()(IDS).logits
    return logits


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gpt2"])
def test_the_base_is_as_it_was_and_the_adapter_in_a_folder_of_its_own(trainings: Trainings, model_type: str) -> None:
    base_model(trainings.volume, model_type)
    alone = trainings.version("alone", BASE, LORA)
    model = beside(trainings, alone)
    assert same(weights_of(model), weights_of(trainings.volume / "base"))
    assert {path.name for path in (model / "adapter").iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS, ADAPTER_BASE}
    assert not safety.has_adapter(model)
    assert not list(model.glob(".*"))
    assert (model / "chat_template.jinja").exists()
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(trainings.fetched(alone), dtype=torch.float32)(IDS).logits
    assert torch.allclose(answers(model), merged, atol=1e-5)
    assert not torch.allclose(answers(model), AutoModelForCausalLM.from_pretrained(model)(IDS).logits, atol=1e-3)
    beside(trainings, alone)  # the container starts again
    assert same(weights_of(model), weights_of(trainings.volume / "base"))


@pytest.mark.parametrize("limit", [EngineAdapters(max_rank=16), EngineAdapters(max_rank=8)], ids=str)
def test_adapters_on_one_another_are_one_on_the_whole_model_below_them(
    trainings: Trainings, limit: EngineAdapters
) -> None:
    """Or where that would have too large a rank, the last one on the others, merged."""
    base_model(trainings.volume, dtype="float32")
    version = BASE
    for number, modules in enumerate((["q_proj", "down_proj"], ["all-linear"], ["q_proj", "k_proj"])):
        adapter = LORA | {"r": 2 + number, "loraAlpha": 4 * (number + 1), "targetModules": modules}
        version = trainings.version(f"alone-{number}", version, adapter)
    model = beside(trainings, version, adapters=limit)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(trainings.fetched(version), dtype=torch.float32)(IDS).logits
    assert torch.allclose(answers(model), merged, atol=1e-5)
    is_one = limit.max_rank > 2 + 3 + 4
    assert same(weights_of(model), weights_of(trainings.volume / "base")) == is_one
    assert json.loads((model / "adapter" / ADAPTER_CONFIG).read_text())["r"] == (9 if is_one else 4)
    assert {path.name for path in model.glob("*.safetensors")} == {"model.safetensors"}
    assert not list(model.glob(".*"))


@pytest.mark.parametrize("kinds", [["qlora"], ["qlora", "lora"], ["lora", "qlora"]], ids=str)
def test_an_adapter_on_rounded_weights_is_added_to_these(trainings: Trainings, kinds: list[str]) -> None:
    """Those below the last one are merged, as only rounding comes between them."""
    base_model(trainings.volume, dtype="float32")
    version = BASE
    for number, kind in enumerate(kinds):
        version = trainings.version(f"alone-{number}", version, LORA | {"type": kind, "r": 2 + number})
    model = beside(trainings, version)
    with torch.no_grad():
        merged = AutoModelForCausalLM.from_pretrained(trainings.fetched(version), dtype=torch.float32)(IDS).logits
    assert torch.allclose(answers(model), merged, atol=1e-5)
    assert not same(weights_of(model), weights_of(trainings.volume / "base"))
    assert json.loads((model / "adapter" / ADAPTER_CONFIG).read_text())["r"] == 1 + len(kinds)


def test_one_copy_of_the_base_is_kept_for_all_its_adapters(trainings: Trainings) -> None:
    base_model(trainings.volume)
    first, second = (trainings.version(name, BASE, LORA | {"r": r}) for name, r in (("one", 2), ("two", 4)))
    cache = {"cache_uri": "pvc://claim/copies", "cache_bytes": 1 << 30}
    beside(trainings, first, "one", **cache)
    (copy,) = (trainings.volume / "copies").iterdir()
    assert {path.name for path in copy.iterdir()} == {"model.safetensors", "manifest.json"}
    shutil.move(trainings.volume / "base", trainings.volume / "moved")
    model = beside(trainings, second, "two", **cache)
    assert same(weights_of(model), weights_of(trainings.volume / "moved"))
    assert json.loads((model / "adapter" / ADAPTER_CONFIG).read_text())["r"] == 4
    with pytest.raises(TryAgain, match="the version is an adapter, whose base can't be read"):
        beside(trainings, second, "three")
    (copy / "model.safetensors").write_bytes(b"other")
    with pytest.raises(TryAgain):  # what was changed is not used
        beside(trainings, second, "four", **cache)
    assert not copy.exists()


def test_a_base_that_has_changed_is_not_served(trainings: Trainings) -> None:
    base_model(trainings.volume)
    alone = trainings.version("alone", BASE, LORA)
    file = trainings.volume / "base" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\1\2\3")
    with pytest.raises(BadInput, match=r"DigestMismatch.*is not the file that the adapter was trained on"):
        beside(trainings, alone)
    with pytest.raises(BadInput, match=r"is an adapter: name the folder of its base in spec\.artefact\.bases"):
        beside(trainings, alone.model_copy(update={"bases": ()}))


def test_a_rank_that_the_engine_is_not_started_for_is_refused_with_what_to_set(trainings: Trainings) -> None:
    base_model(trainings.volume)
    alone = trainings.version("alone", BASE, LORA | {"r": 9})
    with pytest.raises(BadInput, match=r"rank 9: set engine\.adapters\.maxRank to 9 or more"):
        beside(trainings, alone)
    beside(trainings, alone, adapters=EngineAdapters())


def test_a_whole_model_is_served_as_without_the_setting(trainings: Trainings) -> None:
    base_model(trainings.volume)
    merged = trainings.version("merged", BASE, LORA, merged=True)
    model = beside(trainings, merged)
    assert not (model / "adapter").exists()
    assert same(weights_of(model), weights_of(trainings.volume / "versions" / "merged"))

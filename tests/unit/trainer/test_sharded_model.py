"""Several ranks load a model and leave it again, and none ever holds the whole of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from driftloop.contract.manifest import Manifest
from driftloop.contract.textstats import PROFILE, build_profile
from driftloop.podlib.nf4 import rounded
from driftloop_trainer.dataset import write_turn_ends
from driftloop_trainer.models import config_for
from driftloop_trainer.wholemodel import copy_model
from unit.trainer import templates
from unit.trainer.ranks import run_script
from unit.trainer.sharded_model import ALONE, LARGE, LOADED, RANKS, TRAINED, WAYS
from unit.trainer.templates import with_template
from unit.trainer.train.worker.test_export import HEADS, task_document

pytestmark = pytest.mark.timeout(600)
OTHERS: dict[str, dict[str, Any]] = {
    "tied": HEADS | {"model_type": "llama", "tie_word_embeddings": True, "num_hidden_layers": 5},
    "untied": HEADS | {"model_type": "qwen3", "num_hidden_layers": 4},
    "mixtral": HEADS | {"model_type": "mixtral", "num_local_experts": 2},
    "rearranged": HEADS | {"model_type": "olmo_hybrid", "num_hidden_layers": 2},
    "gpt2": {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64},
    LARGE: {
        "model_type": "llama",
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 24,
        "num_attention_heads": 8,
        "num_key_value_heads": 8,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "vocab_size": 8192,
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all ranks have loaded and exported every model."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = with_template(templates.CHATML)
    for name, fields in OTHERS.items():
        config = config_for({"vocab_size": 129, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | fields)
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        model.to(torch.bfloat16 if name == LARGE else torch.float32).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    data = folder / "data"
    data.mkdir()
    write_turn_ends(data, [2])
    (data / PROFILE).write_text(json.dumps(build_profile(["hi"])))
    (folder / "task.json").write_text(json.dumps(task_document()))
    run_script("sharded_model.py", folder)
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "outcome.json").read_text()))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


@pytest.mark.parametrize(("name", "way"), LOADED)
def test_every_rank_has_its_part_of_the_very_weights(folder: Path, name: str, way: str) -> None:
    assert outcome(folder)[f"{name} {way}"] == []


EXPORTED = [f"{name}-{way}" for name, way in LOADED]


@pytest.mark.parametrize("name", [*EXPORTED, "large-none"])
def test_what_was_not_trained_is_exported_as_it_was(folder: Path, name: str) -> None:
    base, exported = weights(folder / name.partition("-")[0]), weights(folder / "out" / name)
    assert base.keys() == exported.keys()
    assert all(torch.equal(base[key], exported[key]) and base[key].dtype == exported[key].dtype for key in base)
    Manifest.read(folder / "out" / name).verify(folder / "out" / name)
    AutoModelForCausalLM.from_pretrained(folder / "out" / name)


def test_trained_adapters_are_merged_alike_in_every_grid(folder: Path) -> None:
    ways = ("lora", "lora-tensor", "lora-pipeline-tensor")
    merged, *others = (weights(folder / "out" / f"untied-{way}{TRAINED}") for way in ways)
    base = weights(folder / "untied")
    changed = {name for name in base if not torch.equal(merged[name], base[name])}
    assert len(changed) == 4 * 7  # the linear layers of its decoder layers
    assert all(torch.equal(merged[name], other[name]) for other in others for name in base)


def test_an_adapter_is_merged_into_the_weights_of_4_bits_with_which_it_was_trained(folder: Path) -> None:
    base, merged = weights(folder / "untied"), weights(folder / "out" / f"untied-lora{TRAINED}")
    of_shards, of_replicas = (weights(folder / "out" / f"untied-{way}{TRAINED}") for way in ("qlora", "qlora-replicas"))
    assert base.keys() == of_shards.keys()
    assert all(torch.equal(of_shards[name], of_replicas[name]) for name in base)
    linear = {name for name in base if not torch.equal(merged[name], base[name])}
    for name in linear:
        in_4_bits = rounded(base[name])
        assert not torch.allclose(in_4_bits, base[name], atol=1e-4)
        assert torch.allclose(of_shards[name] - in_4_bits, merged[name] - base[name], atol=1e-6)
    assert all(torch.equal(of_shards[name], base[name]) for name in base.keys() - linear)


@pytest.mark.parametrize("way", [way for way, (adapter, _) in WAYS.items() if adapter in ("lora", "qlora")])
def test_every_grid_exports_the_adapter_alone_as_it_merges_it(folder: Path, tmp_path: Path, way: str) -> None:
    merged = weights(folder / "out" / f"untied-{way}{TRAINED}")
    alone = folder / "out" / f"untied-{way}{TRAINED}{ALONE}"
    copy_model(f"file://{alone}", tmp_path / "model", Manifest.read(alone).digest, [f"file://{folder}/untied"])
    fetched = weights(tmp_path / "model")
    assert fetched.keys() == merged.keys()
    assert all(torch.equal(fetched[name], merged[name]) for name in merged)


def test_weights_that_osf_cuts_in_two_are_exported_as_their_sum_by_every_rank(folder: Path) -> None:
    base, exported = weights(folder / "untied"), weights(folder / "out" / "untied-osf")
    assert base.keys() == exported.keys()
    assert all(torch.allclose(base[name], exported[name], atol=1e-5) for name in base)
    assert torch.equal(base["lm_head.weight"], exported["lm_head.weight"])


def test_each_rank_writes_a_file_of_its_own_and_the_index_names_them(folder: Path) -> None:
    out = folder / "out" / "large-none"
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(path.name for path in out.glob("*.safetensors"))
    assert files == sorted(set(index["weight_map"].values()))
    assert len(files) >= RANKS
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights(out).values())


def test_a_model_larger_than_a_rank_s_memory_is_loaded_and_exported(folder: Path) -> None:
    assert outcome(folder)[LARGE] == []
    assert outcome(folder)["whole"] == "out of memory"

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter, NewModel
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.models import (
    PACKING_TYPES,
    check_model_folder,
    config_for,
    context_length,
    decoder_layers,
    load_model,
    model_facts,
)
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
        ({"model_type": "bert"}, "UnknownArchitecture"),  # they see what they should predict
        ({"model_type": "xlnet"}, "UnknownArchitecture"),
        ({"model_type": "xlm", "is_decoder": True}, "UnknownArchitecture"),  # and so does this one then
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
    assert (facts.bare_parameters, facts.dtype) == (facts.parameters, "float32")


@pytest.mark.parametrize(
    ("fields", "elements"),
    [
        ({"model_type": "llama"}, 2 * 2 * 2 * 16),
        ({"model_type": "llama", "num_key_value_heads": 1}, 2 * 2 * 1 * 16),
        ({"model_type": "qwen3", "num_key_value_heads": 1, "head_dim": 8}, 2 * 2 * 1 * 8),
        ({"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 8}, 0),
        ({"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2}, 0),
        (
            {
                "model_type": "gemma3_text",
                "num_key_value_heads": 1,
                "head_dim": 16,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            2 * 1 * 1 * 16,
        ),
    ],
)
def test_facts_count_the_keys_and_values_of_a_token_or_say_that_they_do_not_know(
    fields: dict[str, Any], elements: int
) -> None:
    assert model_facts(config_for(SIZES | fields), Adapter()).cache_elements == elements


def test_adapters_are_not_served(folder: Path) -> None:
    facts = model_facts(load_model(folder, Adapter()).config, Adapter(type="lora", r=2))
    assert facts.bare_parameters == model_facts(load_model(folder, Adapter()).config, Adapter()).parameters


@pytest.mark.parametrize(("rule", "shown"), [("dynamic", "dynamic"), ("linear", "")])
def test_facts_name_the_rule_of_positions_that_depend_on_the_longest_row(rule: str, shown: str) -> None:
    fields = SIZES | {"model_type": "llama", "rope_scaling": {"rope_type": rule, "factor": 2.0}}
    assert model_facts(config_for(fields), Adapter()).position_scaling == shown


def test_facts_of_lora_count_only_the_adapters_as_trained(folder: Path) -> None:
    adapter = Adapter(type="lora", r=2)
    model = load_model(folder, adapter)
    facts = model_facts(load_model(folder, Adapter()).config, adapter)
    assert facts.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert facts.parameters > 10 * facts.trainable_parameters / 2
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_qlora_is_refused_where_it_would_round_nothing_or_merge_into_other_weights() -> None:
    llama = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for fields, targets, message in (
        ({"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}, ["all-linear"], "needs linear layers"),
        ({"model_type": "olmo_hybrid", "num_hidden_layers": 2}, ["all-linear"], "stored in another form"),
        (llama | {"model_type": "llama"}, ["embed_tokens"], "model.embed_tokens is not a linear layer"),
    ):
        with pytest.raises(StageFailure, match=message):
            model_facts(config_for(fields), Adapter(type="qlora", target_modules=targets))


def test_an_adapter_that_can_not_be_merged_tensor_by_tensor_is_refused_as_a_version_alone() -> None:
    llama = {"model_type": "llama", "vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1}
    for fields, targets, message in (
        ({"model_type": "olmo_hybrid", "num_hidden_layers": 2}, ["all-linear"], "mergeAdapter: .*in another form"),
        (llama | {"num_attention_heads": 2}, ["embed_tokens"], "not a linear layer: .*set output.mergeAdapter to true"),
    ):
        adapter = Adapter(type="lora", target_modules=targets)
        with pytest.raises(StageFailure, match=message):
            model_facts(config_for(fields), adapter, merged=False)
        assert model_facts(config_for(fields), adapter).trainable_parameters


def test_facts_of_osf_count_what_is_trained_and_all_that_is_kept_beside_it(folder: Path) -> None:
    adapter = Adapter(type="osf", effective_rank=0.25)
    model = load_model(folder, adapter)
    facts = model_facts(load_model(folder, Adapter()).config, adapter)
    assert facts.trainable_parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert facts.parameters == sum(p.numel() for p in model.parameters())
    assert facts.largest_layer_parameters == sum(p.numel() for p in decoder_layers(model)[0].parameters())


def test_adapter_modules_that_are_not_there_are_refused(folder: Path) -> None:
    with pytest.raises(StageFailure, match=r"UnknownModules: training\.adapter\.targetModules"):
        load_model(folder, Adapter(type="lora", target_modules=["nowhere"]))


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"model_type": "llama", "max_position_embeddings": 64}, 64),
        ({"model_type": "gpt2", "n_positions": 32}, 32),
        ({"model_type": "bloom"}, None),
        ({"model_type": "mpt"}, None),
        ({"model_type": "llama", "max_position_embeddings": -1}, None),
    ],
)
def test_a_config_states_its_context_or_it_is_unknown(fields: dict[str, Any], length: int | None) -> None:
    assert context_length(config_for(fields)) == length


SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,  # the default's logits hardly depend on what was before
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 1, "head_dim": 16}
MIXTURE = {"num_experts": 4, "num_local_experts": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}
NAMED: dict[str, dict[str, Any]] = {
    "gpt_neo": {"num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 8},
    "glm4_moe": {"moe_intermediate_size": 32, "n_group": 1, "topk_group": 1},
}


def leak(model_type: str) -> float:
    """How much the logits of a row depend on the row that is packed before it."""
    torch.manual_seed(0)
    config = config_for(SIZES | GROUPED | MIXTURE | NAMED.get(model_type, {}) | {"model_type": model_type})
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    first, second = torch.randint(3, 60, (1, 7)), torch.randint(3, 60, (1, 9))
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None]
    with torch.no_grad():
        packed = model(torch.cat([first, second], 1), position_ids=positions, use_cache=False).logits[:, 7:]
        return float((packed - model(second, use_cache=False).logits).abs().max())


@pytest.mark.parametrize("model_type", sorted(PACKING_TYPES))
def test_rows_that_are_packed_together_do_not_see_each_other(model_type: str) -> None:
    assert leak(model_type) < 1e-3


@pytest.mark.parametrize("model_type", ["opt", "mamba"])
def test_the_check_of_packing_finds_what_leaks(model_type: str) -> None:
    assert model_type not in PACKING_TYPES
    assert leak(model_type) > 0.1

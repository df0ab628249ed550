"""Parameters counted from a config.json are those of the model that transformers builds from it."""

from typing import Any

import pytest

from driftloop.api.finetunejob import Adapter
from driftloop.cli.decoder import MODEL_TYPES, UnknownModel, decoder_facts
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.models import config_for, model_facts
from unit.cli.test_plan import LLAMA

SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "vocab_size": 320,
    "pad_token_id": None,  # the default of some types is outside this vocabulary
}
GROUPED = SIZES | {"num_key_value_heads": 2}
WIDE = GROUPED | {"head_dim": 24}
FULL, LORA = Adapter(), Adapter(type="lora", r=4)
SOME = LORA.model_copy(update={"target_modules": ["q_proj", "v_proj", "model.layers.1.mlp.down_proj"]})


OSF = Adapter(type="osf", effective_rank=0.3)


QLORA = LORA.model_copy(update={"type": "qlora"})
ADAPTERS = {"full": FULL, "lora": LORA, "lora of some modules": SOME, "osf": OSF, "qlora": QLORA}


# Types with every adapter; the others with one, as adapters only depend on the linear layers.
WITH_ALL = ("gemma", "gemma2", "gemma3_text", "granite", "jais2", "llama", "mistral", "qwen2", "qwen3", "smollm3")
COUNTED = [
    (model_type, name) for model_type in MODEL_TYPES for name in (ADAPTERS if model_type in WITH_ALL else ["lora"])
]


@pytest.mark.parametrize(("model_type", "name"), COUNTED)
def test_the_count_is_that_of_the_built_model(model_type: str, name: str) -> None:
    for fields in (
        SIZES,
        GROUPED,
        WIDE,
        GROUPED | {"tie_word_embeddings": True},
        WIDE | {"tie_word_embeddings": False},
    ):
        same(fields | {"model_type": model_type}, ADAPTERS[name])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_biases_count_where_the_type_reads_their_fields(model_type: str) -> None:
    for field in ("attention_bias", "attention_out_bias", "mlp_bias", "use_bias"):
        same(GROUPED | {"model_type": model_type, field: True})


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3"])
def test_keys_without_a_number_of_heads_have_as_many_as_queries(model_type: str) -> None:
    same(SIZES | {"model_type": model_type, "num_key_value_heads": None})


@pytest.mark.parametrize("targets", [["lm_head"], ["embed_tokens", "o_proj"], ["mlp.up_proj", "unknown"]])
def test_lora_on_chosen_modules_is_counted_as_peft_adds_it(targets: list[str]) -> None:
    adapter = LORA.model_copy(update={"target_modules": targets})
    same(GROUPED | {"model_type": "llama", "tie_word_embeddings": False}, adapter)
    same(GROUPED | {"model_type": "llama", "tie_word_embeddings": True}, SOME)


def test_osf_leaves_an_embedding_as_it_is() -> None:
    adapter = OSF.model_copy(update={"target_modules": ["embed_tokens", "o_proj"]})
    for tied in (True, False):
        same(GROUPED | {"model_type": "llama", "tie_word_embeddings": tied}, adapter)


@pytest.mark.parametrize("adapter", [LORA, OSF], ids=["lora", "osf"])
@pytest.mark.parametrize("targets", [["lm_head"], ["o_proj", "lm_head", "embed_tokens"]])
def test_an_adapter_of_tied_embeddings_is_refused_as_the_trainer_refuses_it(
    adapter: Adapter, targets: list[str]
) -> None:
    named = adapter.model_copy(update={"target_modules": targets})
    fields = GROUPED | {"model_type": "llama", "tie_word_embeddings": True}
    with pytest.raises(UnknownModel) as counted:
        decoder_facts(fields, named)
    with pytest.raises(StageFailure) as built:
        model_facts(config_for(fields), named)
    assert str(counted.value) == built.value.message


def same(fields: dict[str, Any], adapter: Adapter = FULL) -> None:
    served = {
        "bare_parameters": 0,
        "dtype": "",
        "cache_elements": 0,
    }  # what only serving needs, which is not planned here
    assert decoder_facts(fields, adapter) == model_facts(config_for(fields), adapter).model_copy(update=served)


def test_llama_3_8b_has_its_published_size() -> None:
    assert decoder_facts(LLAMA, FULL).parameters == 8_030_261_248


@pytest.mark.parametrize("model_type", ["mixtral", "hal9000", None])
def test_a_type_that_cannot_be_counted_is_refused_by_name(model_type: str | None) -> None:
    with pytest.raises(UnknownModel, match=f"model_type {model_type!r}.*llama.*qwen3"):
        decoder_facts(SIZES | {"model_type": model_type}, FULL)


def test_a_model_without_the_target_modules_is_refused_with_the_field() -> None:
    adapter = LORA.model_copy(update={"target_modules": ["query"]})
    with pytest.raises(UnknownModel, match=r"training\.adapter\.targetModules: the model has none of query"):
        decoder_facts(SIZES | {"model_type": "llama"}, adapter)


@pytest.mark.parametrize("fields", [{"hidden_size": "wide"}, {"hidden_size": None}, {"num_hidden_layers": 0}])
def test_a_wrong_or_missing_field_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(fields))):
        decoder_facts(SIZES | {"model_type": "llama"} | fields, FULL)

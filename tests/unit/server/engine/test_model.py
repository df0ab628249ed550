"""A model folder that can't be served is refused before the first request."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from driftloop.podlib.ending import BadInput
from driftloop_server.engine.model import load
from driftloop_server.engine.tokenising import Abandoned
from driftloop_server.openai_api import ApiError


def save(config: Any, folder: Path) -> None:
    """A random model of this architecture."""
    model: Any = AutoModelForCausalLM
    model.from_config(config).save_pretrained(folder)


@pytest.fixture
def changed(model_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """The model with fields of its config changed."""

    def build(**fields: Any) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(model_folder, folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))
        return folder

    return build


def test_an_unknown_architecture_is_named(changed: Callable[..., Path]) -> None:
    with pytest.raises(BadInput, match="holographic") as caught:
        load(changed(model_type="holographic", architectures=["HolographicLM"]))
    assert caught.value.reason == "ModelUnreadable"


def test_the_context_is_the_models_or_shorter(model_folder: Path) -> None:
    assert load(model_folder).max_model_len == 256
    assert load(model_folder, max_model_len=100).max_model_len == 100
    with pytest.raises(BadInput, match=r"maxModelLen is 300.*256"):
        load(model_folder, max_model_len=300)


def test_a_context_that_no_config_states_is_asked_for(changed: Callable[..., Path]) -> None:
    folder = changed(max_position_embeddings=-1)  # as XLNet's says that there is no limit
    with pytest.raises(BadInput, match=r"set engine\.maxModelLen"):
        load(folder)
    assert load(folder, max_model_len=100).max_model_len == 100


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "refuses them: roles must alternate"),
        ("{{ messages[0]['parts'][0] }}", "has no attribute 'parts'"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{% for m in messages %}", "Unexpected end of template"),
    ],
)
def test_whatever_a_template_does_wrong_is_a_refusal_in_its_words(
    model_folder: Path, template: str, words: str
) -> None:
    loaded = load(model_folder)
    loaded.tokenizer.chat_template = template
    with pytest.raises(ApiError, match="messages: the model's chat template") as refusal:
        loaded.render([{"role": "user", "content": "hi"}])
    assert refusal.value.status == 400
    assert words in refusal.value.message


def test_a_prompt_tells_whether_the_answer_begins_within_a_thought(model_folder: Path) -> None:
    loaded = load(model_folder)
    assert not loaded.thinks
    loaded.tokenizer.chat_template = (
        "{{ messages[0].content }}{% if think %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
    )
    loaded = replace(loaded)  # without what it has computed
    assert loaded.thinks
    messages = [{"role": "user", "content": "why?"}]
    assert loaded.thinks_already(loaded.render(messages, values={"think": True}))
    assert not loaded.thinks_already(loaded.render(messages))


def test_broken_weights_are_found_at_the_start(changed: Callable[..., Path]) -> None:
    folder = changed()
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.full_like(weights["model.norm.weight"], float("nan"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match="not a number"):
        load(folder)


def test_a_recurrent_model_is_refused_with_the_way_out(model_folder: Path, tmp_path: Path) -> None:
    """Its state has no positions: in a padded batch it would give wrong answers without an error."""
    config = AutoConfig.for_model(
        "mamba", vocab_size=400, hidden_size=32, state_size=4, num_hidden_layers=2, max_position_embeddings=256
    )
    save(config, tmp_path)
    for file in model_folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    with pytest.raises(BadInput) as caught:
        load(tmp_path)
    assert caught.value.reason == "ModelUnsupported"


@pytest.mark.parametrize("model_type", ["gpt2", "qwen2", "mistral", "gpt_neox"])
def test_other_architectures_are_served(model_folder: Path, tmp_path: Path, model_type: str) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    more = {"mistral": {"sliding_window": 4, "num_key_value_heads": 1}, "qwen2": {"num_key_value_heads": 1}}
    config = AutoConfig.for_model(model_type, vocab_size=400, **sizes | more.get(model_type, {}))
    save(config, tmp_path)
    for file in model_folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    assert load(tmp_path).vocabulary == 400


def test_a_long_text_is_given_up_where_it_can_not_fit_any_more(model_folder: Path) -> None:
    loaded = load(model_folder)
    seen: list[int] = []

    def tokenizer(text: str, **options: bool) -> Any:
        seen.append(len(text))
        return loaded.tokenizer(text, **options)

    spied = replace(loaded, tokenizer=tokenizer)
    with pytest.raises(ApiError, match=r"first 16384 of 3900000 characters in prompt are already too many") as caught:
        spied.encode("a" * 3_900_000)
    assert caught.value.code == "context_length_exceeded"
    assert seen == [16384]
    left = replace(spied, wanted=lambda: len(seen) < 3, max_model_len=10**9)
    with pytest.raises(Abandoned):
        left.encode("a" * 3_900_000)
    assert seen == [16384] * 3


def test_a_long_text_that_fits_is_tokenised_as_a_whole(model_folder: Path) -> None:
    loaded = replace(load(model_folder), max_model_len=10**6)
    text = "I want to top up my account, refund, please! 東京 " * 1000
    assert loaded.encode(text) == loaded.tokenizer(text)["input_ids"]


def test_no_text_of_more_characters_than_the_longest_token_fits(model_folder: Path) -> None:
    loaded = load(model_folder)
    for text in ("I want to top up my account", "refund, please!" * 9, "東京🙂" * 9):
        assert len(text) <= loaded.longest_token * len(loaded.encode(text))


def test_a_token_is_turned_into_text_once(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(model_folder)
    decode = Mock(side_effect="ab")
    monkeypatch.setattr(loaded.tokenizer, "decode", decode)
    assert [loaded.string(token) for token in (5, 6, 5, 5)] == ["a", "b", "a", "a"]
    assert decode.call_count == 2

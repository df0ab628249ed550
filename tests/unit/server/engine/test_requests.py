"""What a request may ask for: what is taken, what is left alone, and what is refused by its name."""

import gc
import json
from typing import Any

import pytest

from driftloop_server.engine.requests import ChatRequest, CompletionRequest, parse
from driftloop_server.openai_api import ApiError

MESSAGES = [{"role": "user", "content": "my card"}]


def chat(**fields: Any) -> ChatRequest:
    return parse(ChatRequest, {"messages": MESSAGES} | fields)


def completion(**fields: Any) -> CompletionRequest:
    return parse(CompletionRequest, {"prompt": "my card"} | fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "text", "json_schema": None}},
        {"tools": [], "tool_choice": "none", "functions": [], "function_call": "auto", "parallel_tool_calls": True},
        {"tool_choice": None, "tools": None, "web_search_options": {}, "audio": None},
        {"logit_bias": {}, "repetition_penalty": 1.0, "min_p": 0, "length_penalty": 1, "min_tokens": 0},
        {"frequency_penalty": 0.0, "presence_penalty": 0, "n": 1.0, "best_of": 1, "echo": False, "suffix": ""},
        {"modalities": ["text"], "chat_template_kwargs": {}, "stop_token_ids": [], "skip_special_tokens": True},
        {"include_reasoning": True, "return_token_ids": False, "return_tokens_as_token_ids": False},
        {"stop": "", "seed": None, "temperature": None, "max_tokens": None, "stream_options": None, "model": ""},
        {"stream_options": {}, "stop": []},
        {"stream_options": {"include_usage": None, "include_obfuscation": False}},
        {"stream_options": {"include_obfuscation": True, "continuous_usage_stats": False}},
        {"top_k": -1, "top_p": 1, "temperature": 1, "ignore_eos": False, "stream": False},
    ],
)
@pytest.mark.parametrize("parsed", [chat, completion])
def test_what_asks_for_nothing_is_as_good_as_absent(parsed: Any, fields: dict[str, Any]) -> None:
    asked, plain = parsed(**fields).model_dump(), parsed().model_dump()
    for field in ("top_k", "stream_options"):  # -1 is all tokens as well
        asked.pop(field), plain.pop(field)
    assert asked == plain
    assert not parsed(**fields).stream_options.include_usage


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning_effort": "low", "verbosity": "high", "user": "u-1", "safety_identifier": "s"},
        {"metadata": {"a": "b"}, "store": True, "service_tier": "flex", "parallel_tool_calls": False},
        {"prompt_cache_key": "k", "prompt_cache_retention": "24h", "prediction": {"type": "content", "content": "x"}},
        {"priority": 3, "request_id": "r", "cache_salt": "s"},
    ],
)
@pytest.mark.parametrize("parsed", [chat, completion])
def test_hints_that_change_no_answer_are_ignored(parsed: Any, fields: dict[str, Any]) -> None:
    assert parsed(**fields) == parsed()


@pytest.mark.parametrize(
    ("fields", "explains"),
    [
        ({"n": 9}, "less than or equal to 8"),
        ({"n": True}, "valid integer"),
        ({"frequency_penalty": 0.5}, "doesn't support penalties"),
        ({"repetition_penalty": 1.1}, "doesn't support penalties"),
        ({"logit_bias": {"1": 2}}, "doesn't support it"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "doesn't support tools"),
        ({"tool_choice": "required"}, "doesn't support tools"),
        ({"response_format": {"type": "json_object"}}, "only in text"),
        ({"modalities": ["text", "audio"]}, "only in text"),
        ({"min_p": 0.1}, "top_p and top_k"),
        ({"echo": True}, "doesn't repeat the prompt"),
        ({"suffix": "end"}, "continues a prompt"),
        ({"top_kk": 1}, "does not know the field"),
        ({"x" * 1_000_000: 1}, "does not know the field"),
        ({"stream_options": {"continuous_usage_stats": True}}, "False"),
        ({"stream_options": {"usage": True}}, "does not know the field"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, Any], explains: str) -> None:
    (name,) = fields
    for parsed in (chat, completion):
        with pytest.raises(ApiError, match=explains) as caught:
            parsed(**fields)
        assert caught.value.status == 400
        assert caught.value.param == name[:100]
        assert caught.value.message.startswith(name[:100])
        assert len(caught.value.message) < 300


HUGE = 10**400
NUMBERS: dict[str, list[Any]] = {
    "temperature": [-0.1, 2.1, HUGE, float("nan"), float("inf"), True, "0.5", [1]],
    "top_p": [0, 1.1, -1, HUGE, float("nan"), True, "1"],
    "top_k": [-2, 2**31, HUGE, -HUGE, 1.5, 1e300, float("inf"), float("nan"), True, "5"],
    "max_tokens": [0, -1, 2**31, HUGE, 4.5, 1e300, float("inf"), True, "4"],
    "seed": [2**63, -(2**63) - 1, HUGE, 0.5, True, "7"],
    "logprobs": [-1, 21, HUGE, "5"],
    "n": [0, 9, 1.5, "2", HUGE, -HUGE, float("nan"), 1e300],
    "best_of": [2, 0, 1.5, "1", True, HUGE],
    "frequency_penalty": [1, -HUGE, HUGE, float("nan"), float("inf"), True],
    "presence_penalty": [1, HUGE],
    "min_p": [HUGE, 0.1],
    "stop": [["a"] * 17, ["a"] * 100_000, ["a" * 257], [""], [None], 5, {"a": 1}],
    "stream": ["yes", 1],
    "model": [5, ["desk"], "a" * 513],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in NUMBERS.items() for value in values])
def test_every_value_is_bounded_at_the_door(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        completion(**{field: value})
    assert (caught.value.status, caught.value.param) == (400, field)
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("field", ["max_completion_tokens", "top_logprobs"])
@pytest.mark.parametrize("value", [-1, HUGE, float("inf"), "1"])
def test_the_numbers_of_a_chat_are_bounded_too(field: str, value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        chat(logprobs=True, **{field: value})
    assert (caught.value.status, caught.value.param) == (400, field)


def test_an_integral_number_is_an_integer() -> None:
    found = completion(max_tokens=4.0, top_k=3.0, seed=7.0, logprobs=2.0)
    assert (found.max_tokens, found.top_k, found.seed, found.logprobs) == (4, 3, 7, 2)
    assert isinstance(found.max_tokens, int)
    assert completion(temperature=1).temperature == 1.0


def test_best_of_all_answers_is_no_choice_among_them() -> None:
    assert completion(n=2, best_of=2.0).n == 2
    assert chat(n=3, best_of=3).n == 3
    assert completion(n=2, best_of=1).n == 2
    with pytest.raises(ApiError, match=r"best_of: this engine leaves no answer out.*set n"):
        completion(n=2, best_of=3)


def test_likeliest_tokens_are_not_promised_without_their_logprobs() -> None:
    with pytest.raises(ApiError, match="top_logprobs: requires logprobs"):
        chat(top_logprobs=2)
    assert chat(top_logprobs=2, logprobs=True).wanted_logprobs == 2
    assert chat(logprobs=True).wanted_logprobs == 0


@pytest.mark.parametrize(
    ("prompt", "taken"),
    [("a", "a"), (["a"], "a"), ("", ""), ([1, 2], [1, 2]), ([[1, 2]], [1, 2]), ([], [])],
)
def test_a_prompt_is_one_text_or_its_tokens(prompt: Any, taken: Any) -> None:
    assert completion(prompt=prompt).prompt == taken


@pytest.mark.parametrize(
    "prompt",
    [["a", "b"], [1, "a"], [[1], [2]], [1.0], [True], {"a": 1}, 5, [None], [[["a"]]], ["a"] * 300_000, [1.5] * 300_000],
)
def test_another_prompt_is_refused(prompt: Any) -> None:
    with pytest.raises(ApiError, match="several prompts as several requests") as caught:
        completion(prompt=prompt)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize("prompt", [{}, {"prompt": None}])
def test_a_missing_prompt_is_named(prompt: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match="prompt: Field required"):
        parse(CompletionRequest, prompt)


def test_nesting_of_any_depth_is_refused_or_ignored() -> None:
    deep = json.loads("[" * 300 + "]" * 300)
    for field in ("prompt", "stop", "temperature", "response_format", "unknown"):
        with pytest.raises(ApiError):
            completion(**{field: deep})
    for messages in (deep, [{"role": deep}], [{"role": "user", "content": deep}], [{"role": "user", "name": deep}]):
        with pytest.raises(ApiError):
            chat(messages=messages)
    assert completion(metadata=deep) == completion()


def test_nothing_looks_for_garbage_while_arguments_of_a_call_are_read() -> None:
    arguments = json.dumps({"l": [[]] * 100_000})
    call = {"function": {"name": "f", "arguments": arguments}}
    collections: list[str] = []

    def note(phase: str, _: object) -> None:
        collections.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    parse(ChatRequest, {"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [call]}]})
    gc.callbacks.remove(note)
    assert len(collections) <= 2  # one, of what is left when it has been read


@pytest.mark.parametrize(
    "values",
    [["enable_thinking"], {"messages": []}, {"chat_template": "{{ 1 }}"}, {"tokenize": True}, {"a b": 1}, {"deep": {}}],
)
def test_values_that_no_template_may_get_are_refused(values: Any) -> None:
    with pytest.raises(ApiError, match="chat_template_kwargs") as refusal:
        chat(chat_template_kwargs=values)
    assert refusal.value.status == 400


def test_a_value_of_the_template_that_is_null_is_as_good_as_absent() -> None:
    assert chat(chat_template_kwargs={"enable_thinking": None, "style": "short"}).chat_template_kwargs == {
        "style": "short"
    }


def test_a_completion_has_no_template_to_set_values_of() -> None:
    with pytest.raises(ApiError, match="chat_template_kwargs: only chats have a template"):
        completion(chat_template_kwargs={"enable_thinking": False})

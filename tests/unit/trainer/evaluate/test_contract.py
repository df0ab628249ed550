"""Whether an answer has the form that OpenAI's API gives it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.result import ApiCheck
from driftloop_trainer.data.requests import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Request
from driftloop_trainer.evaluate.client import Reply
from driftloop_trainer.evaluate.contract import Conduct, fault_of, with_conduct

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
TOOL = {"function": {"name": "get_weather", "parameters": {"type": "object", "required": ["city"]}}}
JSON = {"response_format": {"type": "json_object"}}


def schema(content: dict[str, Any]) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"schema": content}}}


SCHEMA = schema({"required": ["city"]})


def chat(content: str | None = "yes", **choice: Any) -> dict[str, Any]:
    message = {"role": "assistant", "content": content} | choice.pop("message", {})
    return {"choices": [{"message": message, "finish_reason": "stop"} | choice], "usage": USAGE}


def called(name: str, arguments: str) -> dict[str, Any]:
    return {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


def fault(body: dict[str, Any], document: object, path: str = CHAT) -> str | None:
    return fault_of(Request("r", path, body), Reply(200, json.dumps(document)))


@pytest.mark.parametrize(
    ("body", "document"),
    [
        ({}, chat()),
        ({"n": 2}, chat() | {"choices": chat()["choices"] * 2}),
        (JSON, chat('{"a": 1}')),
        (JSON, chat('{"a": ', finish_reason="length")),
        (SCHEMA, chat('{"city": "Paris"}')),
        ({"tools": [TOOL]}, chat(None, message=called("get_weather", '{"city": "Paris"}'))),
        ({"tools": [TOOL]}, chat("It rains.")),
        ({"tools": [TOOL], "tool_choice": "required"}, chat(None, message=called("get_weather", '{"city": 1}'))),
        ({"logprobs": True}, chat(logprobs={"content": [{"token": "yes", "logprob": -0.1}]})),
    ],
)
def test_an_answer_in_the_form_that_was_asked_has_no_fault(body: dict[str, Any], document: object) -> None:
    assert fault(body, document) is None


@pytest.mark.parametrize("reference", ["#/nowhere", "#", "http://127.0.0.1:9/schema"])
def test_a_schema_that_the_request_cannot_resolve_is_no_fault_of_the_answer(reference: str) -> None:
    assert fault(schema({"$ref": reference}), chat("{}")) is None


def test_an_answer_that_is_cut_within_separated_thoughts_has_the_form_that_was_asked() -> None:
    assert fault({}, chat(None, finish_reason="length", message={"reasoning": "Let me"})) is None


@pytest.mark.parametrize("body", [JSON, SCHEMA])
def test_an_answer_that_repeats_a_bracket_for_ever_is_told(body: dict[str, Any]) -> None:
    assert fault(body, chat("[" * 100_000)) == "the answer is nested too deeply"


@pytest.mark.parametrize(
    ("body", "document", "expected"),
    [
        ({"n": 2}, chat(), "1 choices instead of 2"),
        ({}, chat(None), "neither content nor tool_calls"),
        ({}, chat(finish_reason=None), "finish_reason None"),
        ({}, chat() | {"usage": None}, "no usage"),
        ({}, chat() | {"usage": USAGE | {"total_tokens": 8}}, "usage does not add up"),
        (JSON, chat("Paris"), "the answer is not JSON"),
        (JSON, chat("[1]"), "does not match its schema"),
        (SCHEMA, chat("{}"), "does not match its schema: 'city' is a required property"),
        ({"tools": [TOOL]}, chat(None, message=called("get_time", "{}")), "calls get_time, which is no tool"),
        ({"tools": [TOOL]}, chat(None, message=called("get_weather", "{")), "the arguments of get_weather is not JSON"),
        ({"tools": [TOOL]}, chat(None, message=called("get_weather", "{}")), "does not match its schema"),
        ({"tools": [TOOL], "tool_choice": "required"}, chat(), "calls no tool despite tool_choice"),
        (
            {"tools": [TOOL], "tool_choice": "none"},
            chat(None, message=called("get_weather", '{"city": 1}')),
            "despite tool_choice none",
        ),
        ({"logprobs": True}, chat(logprobs={"content": []}), "no logprobs"),
        ({}, {"choices": [1]}, "another form"),
        ({}, [], "another form"),
    ],
)
def test_an_answer_in_another_form_is_told(body: dict[str, Any], document: object, expected: str) -> None:
    assert expected in (fault(body, document) or "")


def test_the_other_routes_have_forms_of_their_own() -> None:
    text = {"choices": [{"text": "yes", "finish_reason": "stop"}], "usage": USAGE}
    counted = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    response = {"object": "response", "status": "completed", "output": [], "usage": counted}
    vectors = {"data": [{"embedding": [0.1]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}
    for path, body, document in (
        (COMPLETIONS, {"prompt": "x"}, text),
        (RESPONSES, {"input": "x"}, response),
        (EMBEDDINGS, {"input": ["x"]}, vectors),
    ):
        assert fault(body, document, path) is None
        assert fault(body, {}, path)
    assert fault({"input": ["x", "y"]}, vectors, EMBEDDINGS) == "1 embeddings for 2 inputs"


def stream(*chunks: object, done: bool = True) -> Reply:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return Reply(200, "".join(lines) + ("data: [DONE]\n\n" if done else ""))


def test_a_stream_has_an_end_a_reason_and_the_usage_that_was_asked() -> None:
    said, ended = {"choices": [{"delta": {"content": "y"}}]}, {"choices": [{"delta": {}, "finish_reason": "stop"}]}
    plain = Request("r", CHAT, {"stream": True})
    counted = Request("r", CHAT, {"stream": True, "stream_options": {"include_usage": True}})
    assert fault_of(plain, stream(said, ended)) is None
    assert fault_of(plain, stream(said, ended, done=False)) == "the stream does not end with [DONE]"
    assert fault_of(plain, stream(said)) == "no finish_reason in the stream"
    assert fault_of(counted, stream(said, ended)) == "no usage"
    assert fault_of(counted, stream(said, ended, {"choices": [], "usage": USAGE})) is None


def test_a_separator_of_lines_in_an_answer_does_not_end_an_event() -> None:
    chunks = {"choices": [{"delta": {"content": "a\u2028b\x85c"}}]}, {"choices": [{"finish_reason": "stop"}]}
    events = "".join(f"data: {json.dumps(chunk, ensure_ascii=False)}\r\n\r\n" for chunk in chunks)
    assert fault_of(Request("r", CHAT, {"stream": True}), Reply(200, events + "data: [DONE]\r\n\r\n")) is None


def test_a_refusal_needs_the_form_of_an_error_and_counts_as_an_answer_only_where_it_is_right() -> None:
    error = json.dumps({"error": {"message": "no such model"}})
    wrong = Request("r", CHAT, {}, is_refused=True)
    assert fault_of(wrong, Reply(404, error)) is None
    assert fault_of(Request("r", CHAT, {}), Reply(404, error)) == "status 404: no such model"
    assert fault_of(wrong, Reply(404, "not found")) == "status 404 without an error in OpenAI's form"
    assert fault_of(wrong, Reply(500, error)) == "status 500: no such model"


def test_faults_beyond_what_a_result_has_room_for_are_counted() -> None:
    many = Conduct({}, {f"line {number}": "no usage" for number in range(20)})
    api = with_conduct(ApiCheck(passed=7), many, None)
    assert (len(api.failed), api.failed[-1], api.passed) == (8, "13 more requests", 7)


def test_a_feature_that_only_one_of_them_was_asked_counts_for_nothing() -> None:
    """The stable version's answers may be those of another release."""
    api = with_conduct(
        ApiCheck(passed=7), Conduct({"n": "bad", "tools": None}, {}), Conduct({"tools": None, "x": None}, {})
    )
    assert (api.passed, api.failed) == (8, [])


FAULTS = st.dictionaries(st.text(max_size=3), st.none() | st.just("bad"))


@given(FAULTS, FAULTS)
def test_only_what_the_stable_version_does_is_required(
    candidate: dict[str, str | None], stable: dict[str, str | None]
) -> None:
    recorded = {name: candidate.get(name) for name in {*candidate, *stable}}
    api = with_conduct(ApiCheck(passed=0), Conduct({}, recorded), Conduct({}, stable))
    lost = [name for name in recorded if recorded[name] and not stable.get(name)]
    assert bool(api.failed) == bool(lost)
    assert api.passed == sum(recorded[name] is None and not stable.get(name) for name in recorded)

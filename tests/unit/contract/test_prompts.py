"""The prompt of a request, as drift and feedback see it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.contract.prompts import Prompt, prompt_from, prompt_of, prompt_of_response

SYSTEM = {"role": "system", "content": "Be short."}
USER = {"role": "user", "content": "my card"}


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": "my card"}, "my card"),
        ({"prompt": ["my card"]}, "my card"),
        ({"prompt": [1, 2]}, None),
        ({"prompt": ["a", "b"]}, None),
        ({"messages": [USER]}, "my card"),
        ({"messages": [SYSTEM, USER]}, "my card"),
        ({"messages": [USER, {"role": "assistant", "content": "Which?"}, {"role": "user", "content": "blue"}]}, "blue"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}]}, "a"),
        ({"messages": [SYSTEM]}, None),
        ({"messages": "my card"}, "my card"),
        ({"messages": [1]}, None),
        ({}, None),
    ],
)
def test_it_is_the_last_user_turn(body: dict[str, Any], text: str | None) -> None:
    found = prompt_of(body)
    assert (found.text if found else None) == text


def test_a_turn_alone_is_the_same_as_its_text() -> None:
    """So that whoever corrects an answer may send back the text that the user typed."""
    assert prompt_from([USER]) == prompt_from("my card")


def test_the_hash_is_of_all_that_was_asked() -> None:
    asked = [
        prompt_from("my card"),
        prompt_from([SYSTEM, USER]),
        prompt_from([SYSTEM | {"content": "Be long."}, USER]),
        prompt_from([SYSTEM | {"role": "developer"}, USER]),
    ]
    assert len({prompt.hash for prompt in asked if prompt}) == len(asked)


CALL = {"id": "c1", "type": "function", "function": {"name": "rate", "arguments": {}}}


def test_a_conversation_keeps_its_calls_results_and_tools() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "content": "1.1", "tool_call_id": "c1"}
    found = prompt_of({"messages": [USER, called, result], "tools": [CALL], "temperature": 0})
    assert found is not None
    assert found.stored() == {
        "prompt": "my card",
        "messages": [USER, called | {"content": ""}, result],
        "tools": json.dumps([CALL]),
    }
    assert found.hash == (prompt_from([USER, called, result]) or found).hash
    assert found.size > len(json.dumps(CALL))
    assert found.readable


def test_a_turn_alone_is_stored_as_its_text() -> None:
    assert (prompt_from([USER]) or Prompt("")).stored() == {"prompt": "my card"}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {}}]},
        {"role": "user", "content": "look", "name": 7},
    ],
)
def test_what_is_not_all_text_is_marked(message: dict[str, Any]) -> None:
    found = prompt_from([message])
    assert found is not None
    assert found.text == "look"
    assert found.messages[0]["unreadable"]
    assert not found.readable


def test_its_identity_leaves_out_the_instructions() -> None:
    found = [prompt_from([USER]), prompt_from([SYSTEM, USER]), prompt_from([SYSTEM | {"role": "developer"}, USER])]
    assert {prompt.identity for prompt in found if prompt} == {"my card"}


fields = st.sampled_from(["role", "content", "type", "text", "tool_calls", "function", "name", "arguments"])
values = st.recursive(
    st.none() | st.integers() | st.sampled_from(["user", "text", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(fields, inner),
    max_leaves=8,
)


@given(values)
def test_no_body_is_too_strange(value: Any) -> None:
    assert isinstance(prompt_of({"messages": value}), Prompt | None)
    assert isinstance(prompt_of({"prompt": value}), Prompt | None)


FUNCTION = {"name": "rate", "description": "of a currency", "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ("my card", [USER]),
        ([{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "my card"}]}], [USER]),
        (
            [
                USER,
                {"type": "reasoning", "summary": []},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Wait."}]},
                {"type": "function_call", "call_id": "c1", "name": "rate", "arguments": "{}"},
                {"type": "function_call", "call_id": "c2", "name": "rate", "arguments": '{"a": 1}'},
                {"type": "function_call_output", "call_id": "c1", "output": "1.1"},
            ],
            [
                USER,
                {
                    "role": "assistant",
                    "content": "Wait.",
                    "tool_calls": [CALL, {**CALL, "id": "c2", "function": {"name": "rate", "arguments": {"a": 1}}}],
                },
                {"role": "tool", "content": "1.1", "tool_call_id": "c1"},
            ],
        ),
    ],
)
def test_a_response_is_asked_for_as_a_chat_is(items: Any, messages: list[dict[str, Any]]) -> None:
    """The hash too: whoever corrects an answer may send back the items or the messages."""
    found = prompt_of_response({"input": items, "tools": [{"type": "function", **FUNCTION}]})
    same = prompt_of({"messages": messages, "tools": [{"type": "function", "function": FUNCTION}]})
    assert found is not None
    assert same is not None
    assert (found, found.tools, found.hash, found.readable) == (same, same.tools, same.hash, True)
    assert prompt_from(items) == same


def test_the_instructions_of_a_response_are_its_system_message() -> None:
    found = prompt_of_response({"input": "my card", "instructions": "Be short."})
    assert found == prompt_of({"messages": [SYSTEM, USER]})


def test_an_item_that_is_no_text_is_never_trained_on() -> None:
    found = prompt_of_response({"input": [USER, {"type": "item_reference", "id": "m1"}]})
    assert found is not None
    assert (found.text, found.readable) == ("my card", False)


@given(items=st.recursive(st.none() | st.text(max_size=3), lambda x: st.lists(x, max_size=3) | st.dictionaries(
    st.sampled_from(["type", "role", "content", "name", "call_id", "output", "arguments", "tool_calls"]), x, max_size=4
), max_leaves=12))  # fmt: skip
def test_any_input_is_a_prompt_or_none(items: Any) -> None:
    assert isinstance(prompt_of_response({"input": items, "instructions": items, "tools": items}), Prompt | None)

import json
from typing import Any

import pytest

from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.conversations import answers_nothing, conversation, is_conversation, tool_schemas
from driftloop_trainer.data.rows import Turn

MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "be kind"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
]
TURNS = (Turn("system", "be kind"), Turn("user", "hi"), Turn("assistant", "hello"))


@pytest.mark.parametrize(
    "value",
    [
        MESSAGES,
        json.dumps(MESSAGES),
        [message | {"content": [{"type": "text", "text": message["content"]}]} for message in MESSAGES],
        [message | {"role": message["role"].upper(), "tool_calls": None, "name": ""} for message in MESSAGES],
        [
            {"from": "system", "value": "be kind"},
            {"from": "human", "value": "hi"},
            {"from": "gpt", "value": "hello"},
        ],
        [{"role": "developer", "content": "be kind"}, *MESSAGES[1:]],
        {"role": [m["role"] for m in MESSAGES], "content": [m["content"] for m in MESSAGES]},
    ],
)
def test_one_conversation_in_its_many_shapes(value: Any) -> None:
    assert conversation(value) == TURNS


@pytest.mark.parametrize("value", [None, float("nan"), "", " ", [], "[]"])
def test_nothing_is_no_turns(value: Any) -> None:
    assert conversation(value) == ()


def test_a_message_alone_is_a_conversation() -> None:
    assert conversation(MESSAGES[1]) == TURNS[1:2]


CALL = {"type": "function", "function": {"name": "rate", "arguments": {"to": "EUR", "from": "USD"}}}


def test_tool_calls_and_results_are_kept_for_the_template() -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "tool_call_id": "c1", "name": "rate", "content": {"rate": 1.1}}
    turns = conversation([MESSAGES[1], called, result])
    assert [turn.message() for turn in turns] == [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": '{"rate": 1.1}', "tool_call_id": "c1", "name": "rate"},
    ]
    assert '"to": "EUR", "from": "USD"' in turns[1].extra  # in their order, as templates render them


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (["EUR", "USD"], '["EUR", "USD"]'),
        ([{"rate": 1.1}, {"rate": 0.9}], '[{"rate": 1.1}, {"rate": 0.9}]'),
        ([], "[]"),
        ([{"type": "text", "text": "1.1"}, {"type": "text", "text": " EUR"}], "1.1 EUR"),
    ],
)
def test_a_tool_s_result_that_is_a_list_is_its_json_unless_it_is_text_parts(result: list[Any], text: str) -> None:
    assert conversation([{"role": "tool", "tool_call_id": "c1", "content": result}])[0].content == text


def test_fields_of_a_message_that_nothing_reads_are_named() -> None:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": "no",
        "refusal": "I can't",
        "annotations": [],
        "audio": None,
        "id": 7,
    }
    (turn,) = conversation([message])
    assert turn.unread == ("id", "refusal")
    assert turn == Turn("assistant", "no")


def test_sharegpt_s_calls_and_observations_are_those_of_tools() -> None:
    call = json.dumps({"name": "rate", "arguments": {"to": "EUR", "from": "USD"}})
    turns = conversation([{"from": "function_call", "value": call}, {"from": "observation", "value": "1.1"}])
    assert turns[0].message() == {"role": "assistant", "content": "", "tool_calls": [CALL]}
    assert turns[1] == Turn("tool", "1.1")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("no json", "not JSON"),
        (str(MESSAGES), "Python's syntax"),
        (7, "7 is not a list of messages"),
        ([7], "message 1: 7 is not an object"),
        ([MESSAGES[0], {"role": "user", "text": "hi"}], "message 2: has neither content nor tool_calls"),
        ([{"role": "function_call", "tool_calls": []}], "function_call is None"),
        ([{"role": "asistant", "content": "x"}], "message 1: the role is 'asistant'"),
        ([{"content": "x"}], "the role is None"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "image_url"),
        ([{"role": "user", "content": "look", "images": ["x"]}], "has images"),
        ([{"role": "user", "content": {"a": 1}}], "not a text"),
        ([{"role": "tool", "content": [{"type": "image_url"}]}], "result is a list with type 'image_url'"),
        ([{"role": "tool", "content": [{"type": "text", "text": "x"}, "y"]}], "write any other list as JSON text"),
        ([{"role": "assistant", "content": "x", "weight": 0}], "weight 0"),
        ([{"role": "assistant", "content": None, "tool_calls": [{}]}], "message 1: tool_calls"),
        ([{"from": "function_call", "value": "f()"}], "function_call is 'f\\(\\)'"),
        ({"role": ["user"], "content": []}, "not a list of messages"),
    ],
)
def test_what_is_in_doubt_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        conversation(value)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (MESSAGES, True),
        (json.dumps(MESSAGES), True),
        (MESSAGES[0], True),
        (json.dumps(MESSAGES[0]), True),
        ('{"role": "admin"}', False),
        ([{"from": "human", "value": "hi"}], True),
        ([{"role": "assistant", "tool_calls": [CALL]}], True),
        ("hi", False),
        ('[{"role": "admin"}] is the list: what is wrong?', False),
        ("[1, 2]", False),
        (["hi"], False),
        ([], False),
        ({"a": 1}, False),
        (None, False),
    ],
)
def test_messages_are_told_from_text(value: Any, expected: bool) -> None:
    assert is_conversation(value) is expected


@pytest.mark.parametrize(
    "value",
    [
        MESSAGES,
        MESSAGES[0],
        {"content": "hi", "role": "assistant"},
        [{"name": None, "role": "user", "content": "hi"}],
        [{"id": 1, "from": "human", "value": "a {b}"}],
        [{"type": "text", "text": "hi"}],
        [{"text": "hi", "type": "text"}],
    ],
)
def test_python_s_spelling_of_messages_is_refused(value: Any) -> None:
    texts = [str(value), f"array({value}, dtype=object)"] if isinstance(value, list) else [str(value)]
    for text in texts:
        with pytest.raises(Unreadable, match=r"Python's syntax.*JSON"):
            is_conversation(text)


@pytest.mark.parametrize(
    "text",
    [
        "[{'name': 'Ada', 'role': 'admin'}]",
        "{'role': 'admin', 'content': 'x'}",
        "{'type': 'text'}",
        "[{'role': 'user', 'content': 'hi'}] is not JSON: why?",
        '[{"id": 1, "role": "admin", "content": "x"}]',
        '[{"id": 1, "role": "user"}]',
    ],
)
def test_objects_that_are_no_messages_are_text(text: str) -> None:
    assert not is_conversation(text)


def test_the_fields_of_a_message_in_json_are_in_any_order() -> None:
    assert is_conversation('[{"name": "x", "role": "user", "content": "hi"}]')


def test_text_parts_in_python_s_syntax_are_no_content_but_may_be_a_tool_s_result() -> None:
    parts = str([{"text": "hi", "type": "text"}])
    with pytest.raises(Unreadable, match="message 1: messages in Python's syntax"):
        conversation([{"role": "user", "content": parts}])
    assert conversation([{"role": "tool", "content": parts}])[0].content == parts
    assert conversation([{"role": "user", "content": str(MESSAGES)}])[0].content == str(MESSAGES)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "assistant", "content": " "}, True),
        ({"role": "assistant"}, True),
        ({"role": "assistant", "content": "<think>hm</think>\n"}, True),
        ({"role": "assistant", "content": "<think>hm</think>yes"}, False),
        ({"role": "assistant", "content": None, "tool_calls": []}, True),
        ({"role": "assistant", "content": "\u200b \ufeff"}, True),
        ({"role": "assistant", "content": "\u200bno"}, False),
        ({"role": "assistant", "content": "", "reasoning_content": "hm"}, True),
        ({"role": "assistant", "content": None, "tool_calls": [CALL]}, False),
        ({"role": "user", "content": ""}, False),
    ],
)
def test_an_answer_of_nothing_is_known(message: dict[str, Any], expected: bool) -> None:
    assert answers_nothing(conversation([message])[0]) is expected


def test_tools_are_a_list_of_schemas() -> None:
    schemas = [{"type": "function", "function": {"name": "rate", "parameters": {}}}]
    assert tool_schemas(schemas) == tool_schemas(json.dumps(schemas)) == json.dumps(schemas)
    nothing: list[Any] = [None, "", "[]", [], float("nan")]
    assert {tool_schemas(value) for value in nothing} == {""}
    for wrong in ("rate", {"a": 1}, ["rate"], 7):
        with pytest.raises(Unreadable, match="tool schemas"):
            tool_schemas(wrong)

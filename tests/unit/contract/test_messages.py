from typing import Any

import pytest

from driftloop.contract.messages import carried, plain_content, tool_call


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"),
        (["a", {"text": "b"}], "ab"),
        ([{"type": "input_text", "text": "a"}], "a"),
    ],
)
def test_content_is_text_however_it_is_wrapped(content: Any, text: str) -> None:
    assert plain_content(content) == text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([{"type": "image_url", "image_url": {"url": "x"}}], "image_url"),
        ([{"type": "input_audio", "input_audio": {}}], "input_audio"),
        ([{"type": "text", "text": None}], "text"),
        ([7], "7"),
        ({"a": 1}, '{"a": 1}'),
        (7, "7"),
    ],
)
def test_what_is_no_text_is_named(content: Any, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        plain_content(content)


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({"role": "user", "content": "hi", "name": None, "tool_calls": [], "reasoning": ""}, {}),
        ({"name": "ann", "tool_call_id": "c1"}, {"name": "ann", "tool_call_id": "c1"}),
        ({"reasoning": "hm"}, {"reasoning_content": "hm"}),
        ({"thinking": "hm"}, {"reasoning_content": "hm"}),
        ({"tool_calls": [CALL]}, {"tool_calls": [CALL]}),
        ({"tool_calls": [CALL | {"function": {"name": "f", "arguments": '{"a": 1}'}}]}, {"tool_calls": [CALL]}),
        (
            {"function_call": {"name": "f", "arguments": '{"a": 1}'}},
            {"tool_calls": [{key: CALL[key] for key in ("type", "function")}]},
        ),
    ],
)
def test_what_templates_take_is_kept_in_one_form(message: dict[str, Any], expected: dict[str, Any]) -> None:
    assert carried(message) == expected


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        (None, {}),
        ("", {}),
        ("{}", {}),
        ("{broken", "{broken"),
        ("[1]", "[1]"),
        ('{"a": "\\ud83d"}', '{"a": "\\ud83d"}'),  # half a character: no text that could be spelled anew
    ],
)
def test_arguments_are_an_object_where_they_spell_one(arguments: Any, kept: Any) -> None:
    assert tool_call({"name": "f", "arguments": arguments})["function"]["arguments"] == kept


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ({"name": 7}, "name is 7"),
        ({"tool_calls": "f()"}, "tool_calls is 'f\\(\\)'"),
        ({"tool_calls": [{"id": "c1"}]}, "does not name a function"),
        ({"tool_calls": [{"name": "f", "arguments": 7}]}, "arguments are 7"),
    ],
)
def test_a_field_of_the_wrong_type_is_named(message: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        carried(message)

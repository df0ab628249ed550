"""From the messages of a request to those that chat templates take."""

from typing import Any

import pytest
from openai.types.chat import ChatCompletionMessage
from transformers import PreTrainedTokenizerFast

from driftloop_server.engine.conversation import MAX_CALLS, MAX_MESSAGES, MAX_PARTS, conversation, fitted
from driftloop_server.openai_api import ApiError
from unit.server.conftest import tiny_tokenizer

USER = {"role": "user", "content": "my card"}
PART = {"type": "text", "text": "x"}
CALL = {"id": "call_1", "type": "function", "function": {"name": "balance", "arguments": '{"account": 7}'}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "content": "12 euros"}

# Like Qwen's: knows system, user, assistant and tools; another role is dropped.
TOOLS_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role in ['system', 'user', 'assistant'] %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}"
    "{% elif m.role == 'tool' %}<tool>{{ m.content }}{% endif %}{% endfor %}"
)


def tokenizer(template: str) -> PreTrainedTokenizerFast:
    found = tiny_tokenizer()
    found.chat_template = template
    return found


def answered(text: str) -> ChatCompletionMessage:
    return ChatCompletionMessage(role="assistant", content=text)


def test_an_answer_may_be_sent_back_as_it_came() -> None:
    sent_back = answered("which one?").model_dump() | {"annotations": [], "refusal": None, "id": "msg_1"}
    assert conversation([USER, sent_back, USER]) == [USER, {"role": "assistant", "content": "which one?"}, USER]
    assert conversation([{"role": "assistant"}]) == [{"role": "assistant", "content": ""}]


def test_parts_of_text_are_one_text() -> None:
    parts = [
        {"type": "text", "text": "my ", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "card", "annotations": None},
    ]
    assert conversation([{"role": "user", "content": parts}]) == [USER]


def test_calls_of_tools_and_their_results_are_whole_messages() -> None:
    calling, result = conversation([CALLING, RESULT])
    function = {"name": "balance", "arguments": {"account": 7}}  # an object, as templates take it
    assert calling["tool_calls"] == [{"id": "call_1", "type": "function", "function": function}]
    assert calling["content"] == ""
    assert result == RESULT
    assert conversation([{"role": "function", "name": "balance", "content": "12"}])[0]["role"] == "tool"


@pytest.mark.parametrize(
    ("message", "place", "explains"),
    [
        ("hello", "messages.1", "not an object"),
        ({"role": "robot", "content": "x"}, "messages.1.role", "one of system"),
        ({"content": "x"}, "messages.1.role", "one of system"),
        ({"role": "user"}, "messages.1.content", "must be a string"),
        ({"role": "user", "content": None}, "messages.1.content", "must be a string"),
        ({"role": "user", "content": 5}, "messages.1", "not a text or a list"),
        ({"role": "user", "content": "x", "name": 5}, "messages.1", "name is 5"),
        ({"role": "user", "content": "x", "emotion": "joy"}, "messages.1.emotion", "does not know or support"),
        ({"role": "assistant", "refusal": "I can't"}, "messages.1.refusal", "does not know or support"),
        ({"role": "assistant", "audio": {"id": "a"}}, "messages.1.audio", "does not know or support"),
        ({"role": "assistant", "tool_calls": [5]}, "messages.1", "does not name a function"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages.1.content.0", "image_url"),
        ({"role": "user", "content": [{"type": "text", "text": 5}]}, "messages.1.content.0", "only text parts"),
        (
            {"role": "user", "content": [{"type": "text", "text": "x", "size": 5}]},
            "messages.1.content.0.size",
            "does not know",
        ),
    ],
)
def test_a_message_that_would_be_misread_is_refused_by_its_place(message: Any, place: str, explains: str) -> None:
    with pytest.raises(ApiError, match=explains) as caught:
        conversation([USER, message])
    assert caught.value.message.startswith(f"{place}: ")
    assert (caught.value.status, caught.value.param) == (400, "messages")


@pytest.mark.parametrize("messages", [[], {}, "hello", 5, None, [USER] * (MAX_MESSAGES + 1)])
def test_messages_are_a_list_of_bounded_length(messages: Any) -> None:
    with pytest.raises(ApiError, match="messages: "):
        conversation(messages)
    assert len(conversation([USER] * MAX_MESSAGES)) == MAX_MESSAGES


@pytest.mark.parametrize(("field", "item", "limit"), [("content", PART, MAX_PARTS), ("tool_calls", CALL, MAX_CALLS)])
def test_all_messages_together_have_few_parts_and_calls(field: str, item: dict[str, Any], limit: int) -> None:
    half = {"role": "assistant", field: [item] * (limit // 2)}
    assert len(conversation([half, half])) == 2
    with pytest.raises(ApiError, match=f"messages: {limit + 1} items in {field}"):
        conversation([half, half, {"role": "assistant", field: [item]}])


def test_developer_is_system_where_the_template_has_no_such_role() -> None:
    instructed = [{"role": "developer", "content": "be brief"}, USER]
    assert fitted(instructed, tokenizer(TOOLS_TEMPLATE))[0] == {"role": "system", "content": "be brief"}
    knows = "{% for m in messages %}{% if m.role == 'developer' %}!{% endif %}{{ m.content }}{% endfor %}"
    assert fitted(instructed, tokenizer(knows)) == instructed


def test_tools_reach_a_template_that_knows_them() -> None:
    messages = fitted(conversation([USER, CALLING, RESULT]), tokenizer(TOOLS_TEMPLATE))
    rendered = tokenizer(TOOLS_TEMPLATE).apply_chat_template(messages, tokenize=False)
    assert rendered == '<user>my card<assistant>[balance {"account": 7}]<tool>12 euros'


def test_tools_are_refused_where_the_template_would_leave_them_out() -> None:
    plain = tokenizer(
        "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}{{ m.content }}{% endif %}{% endfor %}"
    )
    with pytest.raises(ApiError, match=r"messages\.1\.tool_calls: .* leaves out tool calls"):
        fitted(conversation([USER, CALLING, RESULT]), plain)
    with pytest.raises(ApiError, match=r"messages\.0\.role: .* leaves out tool results"):
        fitted(conversation([RESULT]), plain)
    assert fitted(conversation([USER]), plain) == [USER]
    # The template says itself why it takes none of them.
    strict = tokenizer(
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}{% endfor %}"
    )
    assert fitted(conversation([RESULT]), strict) == [RESULT]

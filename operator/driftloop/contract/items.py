"""Turns the input items of the Responses API into messages of a chat, and leaves messages as they are. Pure."""

from collections.abc import Sequence
from typing import Any

Message = dict[str, Any]


def messages_of(items: Sequence[Message]) -> list[Message]:
    """The messages of a conversation. An item of an unknown type becomes a message with a part that is not text.

    A call of a function joins the assistant's message before it, as both are one turn in a chat.
    """
    messages: list[Message] = []
    for item in items:
        kind = item.get("type")
        if kind == "function_call":
            _add_call(messages, item)
        elif kind == "function_call_output":
            messages.append({"role": "tool", "content": item.get("output"), "tool_call_id": item.get("call_id")})
        elif "role" in item or kind is None:
            messages.append(item)
        elif kind != "reasoning":  # thoughts of earlier turns, which chat templates leave out
            messages.append({"role": "tool", "content": [item]})
    return messages


def _add_call(messages: list[Message], item: Message) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments")}
    call = {"id": item.get("call_id"), "type": "function", "function": function}
    before = messages.pop() if messages and messages[-1].get("role") == "assistant" else {}
    calls = before.get("tool_calls")
    messages.append(
        {"role": "assistant", "content": None}
        | before
        | {"tool_calls": [*(calls if isinstance(calls, list) else []), call]}
    )

"""Messages of a conversation in the form that training and serving share. Pure.

The fields are those of OpenAI's chat API and of Hugging Face's chat templates.
"""

import json
from collections.abc import Mapping
from typing import Any

UNREADABLE = "unreadable"  # field of a stored message: why part of it isn't text; it is never trained on

TEXT_PARTS = ("text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")  # old and new name in vLLM; name in gpt-oss data
CARRIED = ("name", "tool_call_id", "tool_calls", "function_call", *_REASONING)  # the fields that `carried` reads


def plain_content(content: Any) -> str:
    """The text of a message's content: a string, null, or text parts, joined as the engine joins them.

    Raises:
        ValueError: a part is not text. The message names it.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"content is {spelled(content)}, not a text or a list of text parts")
    return "".join(_part(part) for part in content)


def carried(message: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a message beside role and content: tool_calls, tool_call_id, name, reasoning_content.

    Fields that are null or empty are left out. Arguments of a call become an object, as chat templates expect.
    OpenAI's API sends them as JSON text.

    Raises:
        ValueError: a field has the wrong type. The message names it.
    """
    fields: dict[str, Any] = {}
    if name := _string(message, "name"):
        fields["name"] = name
    if reasoning := next((text for field in _REASONING if (text := _string(message, field))), ""):
        fields["reasoning_content"] = reasoning
    if identity := _string(message, "tool_call_id"):
        fields["tool_call_id"] = identity
    if calls := _calls(message):
        fields["tool_calls"] = calls
    return fields


def tool_call(call: Any) -> dict[str, Any]:
    """One call as {id, type, function: {name, arguments}}, with `id` if it has one. Raises ValueError."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(name, str):
        raise ValueError(f"tool_calls: {spelled(call)} does not name a function")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    arguments = _arguments(function.get("arguments"))
    return identity | {"type": "function", "function": {"name": name, "arguments": arguments}}


def spelled(value: Any) -> str:
    """The start of a value as text, for error messages."""
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else spelled(part)
    if kind not in (None, *TEXT_PARTS) or not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
        raise ValueError(f"content has a part of type {kind}: only text can be read")
    return str(part["text"])


def _string(message: Mapping[str, Any], field: str) -> str:
    value = message.get(field)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{field} is {spelled(value)}, not a text")
    return value or ""


def _calls(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise ValueError(f"tool_calls is {spelled(calls)}, not a list")
    if not calls and message.get("function_call"):  # the field that `tool_calls` replaced in OpenAI's API
        calls = [message["function_call"]]
    return [tool_call(call) for call in calls]


def _arguments(value: Any) -> Any:
    """Arguments as an object, if their text is the JSON of one. Invalid JSON from a model is returned unchanged."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
            json.dumps(parsed, ensure_ascii=False).encode()  # JSON allows a lone surrogate, which UTF-8 cannot encode
        except (ValueError, RecursionError):
            return value
        return parsed if isinstance(parsed, dict) else value
    if not isinstance(value, dict):
        raise ValueError(f"tool_calls: arguments are {spelled(value)}, not an object")
    return value

"""Messages of a conversation in the one form in which training and serving keep them. Pure.

The fields are those of OpenAI's chat API and of Hugging Face's chat templates.
"""

import json
from collections.abc import Mapping
from typing import Any

UNREADABLE = "unreadable"  # of a stored message: why it isn't all text; such a conversation is never trained on

_TEXT_PARTS = (None, "text", "input_text", "output_text")
_REASONING = ("reasoning_content", "reasoning", "thinking")  # vLLM has had two names, data for gpt-oss has the third


def plain_content(content: Any) -> str:
    """The text of a message's content: a string, nothing, or parts of text, joined as the engine joins them.

    Raises ValueError that names what isn't text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"content is {spelled(content)}, not a text or a list of text parts")
    return "".join(_part(part) for part in content)


def carried(message: Mapping[str, Any]) -> dict[str, Any]:
    """What a message carries beside role and content: tool_calls, tool_call_id, name, reasoning_content.

    Fields that are null or empty are as good as absent. A call's arguments are an object, as templates expect them:
    OpenAI's API has their JSON text. Raises ValueError that names the field.
    """
    found: dict[str, Any] = {}
    if name := _string(message, "name"):
        found["name"] = name
    if reasoning := next((text for field in _REASONING if (text := _string(message, field))), ""):
        found["reasoning_content"] = reasoning
    if identity := _string(message, "tool_call_id"):
        found["tool_call_id"] = identity
    if calls := _calls(message):
        found["tool_calls"] = calls
    return found


def tool_call(call: Any) -> dict[str, Any]:
    """One call as {id, type, function: {name, arguments}}; `id` where there is one. Raises ValueError."""
    function = call.get("function", call) if isinstance(call, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(call, Mapping) or not isinstance(function, Mapping) or not isinstance(name, str):
        raise ValueError(f"tool_calls: {spelled(call)} names no function")
    identity = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    arguments = _arguments(function.get("arguments"))
    return identity | {"type": "function", "function": {"name": name, "arguments": arguments}}


def spelled(value: Any) -> str:
    """The beginning of a value, for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else spelled(part)
    if kind not in _TEXT_PARTS or not isinstance(part, Mapping) or not isinstance(part.get("text"), str):
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
    if not calls and message.get("function_call"):  # OpenAI's API before there were tools
        calls = [message["function_call"]]
    return [tool_call(call) for call in calls]


def _arguments(value: Any) -> Any:
    """An object wherever the text is the JSON of one: a model's own call may be broken JSON, and stays as it is."""
    if value is None or value == "":
        return {}
    if isinstance(value, str):
        try:
            parsed = json.loads(value)
            json.dumps(parsed, ensure_ascii=False).encode()  # JSON can spell half a character, which is no text
        except (ValueError, RecursionError):
            return value
        return parsed if isinstance(parsed, dict) else value
    if not isinstance(value, dict):
        raise ValueError(f"tool_calls: arguments are {spelled(value)}, not an object")
    return value

"""Chat messages: from a request's JSON to the form that chat templates take, the same form as in training data."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from driftloop.contract.messages import carried, plain_content, spelled
from driftloop_server.openai_api import ApiError

MAX_MESSAGES = 2048  # OpenAI's limit
MAX_PARTS = 8192  # of all messages; reading many takes seconds, in which other requests wait
MAX_CALLS = 2048  # tool calls in all messages

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning"}
# Fields that clients send back with an answer as history, and fields that control caching of prompts. No template gets
# them.
_IGNORED = {"annotations", "cache_control", "id", "prompt_cache_breakpoint", "status"}
_PART_IGNORED = {"annotations", "cache_control", "id", "logprobs", "prompt_cache_breakpoint"}


def is_nothing(value: Any) -> bool:
    """Whether a field with this value counts as absent: null, or an empty string, list or object."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are not empty."""
    return {name: value for name, value in fields.items() if not is_nothing(value)}


def refused(place: str, message: str) -> ApiError:
    """The 400 for the field at `place`, a path joined by dots."""
    return ApiError(400, f"{place}: {message}", param=place.split(".")[0], code="invalid_value")


def conversation(messages: Any) -> list[Message]:
    """Messages for a chat template: role, content as one string, and tool fields. Raises ApiError 400."""
    if not isinstance(messages, list) or not messages:
        raise refused("messages", "must be a list of at least one message, each an object with role and content")
    if len(messages) > MAX_MESSAGES:
        raise refused("messages", f"{len(messages)} messages: at most {MAX_MESSAGES} are allowed")
    _check_sizes(messages)
    return [_message(f"messages.{index}", message) for index, message in enumerate(messages)]


def fitted(messages: Sequence[Message], tokenizer: Any) -> list[Message]:
    """Adapt the messages to this tokenizer's chat template. Raises ApiError 400 for tool messages that it would drop.

    `developer` is OpenAI's newer name for `system`. A template that doesn't know it drops the message, or renders it
    as an unknown role.
    """
    template = _template(tokenizer)
    knows_developer = "'developer'" in template or '"developer"' in template
    adapted = [m | {"role": "system"} if m["role"] == "developer" and not knows_developer else m for m in messages]
    if any(m["role"] == "tool" or "tool_calls" in m for m in adapted):
        _refuse_unrendered_tools(adapted, tokenizer)
    return adapted


def _message(place: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise refused(place, f"{spelled(message)} is not an object with role and content")
    fields = given(message)
    role = fields.get("role")
    if role not in _ROLES:
        raise refused(f"{place}.role", f"must be one of {', '.join(_ROLES)}")
    if unknown := next((name for name in fields if name not in _FIELDS | _IGNORED), None):
        raise refused(f"{place}.{unknown[:100]}", "this engine does not know or support the field")
    content = message.get("content")
    if content is None and role != "assistant":
        raise refused(f"{place}.content", "must be a string or a list of text parts")
    _check_parts(f"{place}.content", content)
    try:
        return {"role": "tool" if role == "function" else role, "content": plain_content(content)} | carried(fields)
    except ValueError as error:
        raise refused(place, str(error)) from None


def _check_sizes(messages: Sequence[Any]) -> None:
    for name, limit in (("content", MAX_PARTS), ("tool_calls", MAX_CALLS)):
        values = [message.get(name) for message in messages if isinstance(message, dict)]
        size = sum(len(value) for value in values if isinstance(value, list))
        if size > limit:
            raise refused("messages", f"{size} items in {name}: all messages together may have at most {limit}")


def _check_parts(place: str, content: Any) -> None:
    for index, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            named = spelled(kind if isinstance(part, dict) else part)
            raise refused(f"{place}.{index}", f"a part of type {named}: this engine takes only text parts")
        for name in given(part):
            if name not in {"type", "text"} | _PART_IGNORED:
                raise refused(f"{place}.{index}.{name[:100]}", "this engine does not know or support the field")


def _template(tokenizer: Any) -> str:
    """The default template; a tokenizer may have several by name."""
    template = tokenizer.chat_template
    return str(template.get("default", "")) if isinstance(template, dict) else str(template or "")


_CALL = {"id": "probe0001", "type": "function", "function": {"name": "probed_function", "arguments": {}}}
_PROBE: list[Message] = [
    {"role": "user", "content": "a question"},
    {"role": "assistant", "content": "", "tool_calls": [_CALL]},
    {"role": "tool", "content": "a probed result", "tool_call_id": "probe0001"},
]


def _refuse_unrendered_tools(messages: Sequence[Message], tokenizer: Any) -> None:
    try:
        rendered = str(tokenizer.apply_chat_template(_PROBE, tokenize=False))
    except (TemplateError, TypeError, ValueError):
        return  # rendering the request's own messages will report what the template refuses
    for index, message in enumerate(messages):
        if "tool_calls" in message and "probed_function" not in rendered:
            raise refused(f"messages.{index}.tool_calls", "this model's chat template leaves out tool calls")
        if message["role"] == "tool" and "a probed result" not in rendered:
            raise refused(f"messages.{index}.role", "this model's chat template leaves out tool results")

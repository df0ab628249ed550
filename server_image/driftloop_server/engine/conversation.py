"""The messages of a chat: from a request's JSON to what chat templates take, as the data of training has it."""

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from driftloop.contract.messages import carried, plain_content, spelled
from driftloop_server.openai_api import ApiError

MAX_MESSAGES = 2048  # as OpenAI has it
MAX_PARTS = 2048  # of one message
MAX_CALLS = 128  # of tools in one message

Message = dict[str, Any]

_ROLES = ("system", "developer", "user", "assistant", "tool", "function")
_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id", "function_call", "reasoning_content", "reasoning"}
# What an answer brings along when it is sent back as history, and what caches a prompt: no template sees it.
_IGNORED = {"annotations", "cache_control", "id", "prompt_cache_breakpoint", "status"}
_PART_IGNORED = {"annotations", "cache_control", "id", "logprobs", "prompt_cache_breakpoint"}


def is_nothing(value: Any) -> bool:
    """Whether a field of this value is as good as absent: null, an empty text, list or object."""
    return value is None or (isinstance(value, str | list | dict) and not value)


def given(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that say something."""
    return {name: value for name, value in fields.items() if not is_nothing(value)}


def refused(place: str, message: str) -> ApiError:
    """The 400 for the field at `place`, whose parts are joined by dots."""
    return ApiError(400, f"{place}: {message}", param=place.split(".")[0], code="invalid_value")


def conversation(messages: Any) -> list[Message]:
    """What chat templates take: role, content as one text, and what else the message carries. Raises ApiError 400."""
    if not isinstance(messages, list) or not messages:
        raise refused("messages", "give a list of messages, one at least, each an object with role and content")
    if len(messages) > MAX_MESSAGES:
        raise refused("messages", f"{len(messages)} messages: a request has {MAX_MESSAGES} at most")
    return [_message(f"messages.{index}", message) for index, message in enumerate(messages)]


def fitted(messages: Sequence[Message], tokenizer: Any) -> list[Message]:
    """The messages as this tokenizer's chat template knows them. Raises ApiError 400 for what it would leave out.

    `developer` is OpenAI's newer name of `system`; templates that don't name it drop such a message, or render the
    word as if it were a role.
    """
    template = _template(tokenizer)
    knows_developer = "'developer'" in template or '"developer"' in template
    found = [m | {"role": "system"} if m["role"] == "developer" and not knows_developer else m for m in messages]
    if any(m["role"] == "tool" or "tool_calls" in m for m in found):
        _refuse_unrendered_tools(found, tokenizer)
    return found


def _message(place: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise refused(place, f"{spelled(message)} is not an object with role and content")
    fields = given(message)
    role = fields.get("role")
    if role not in _ROLES:
        raise refused(f"{place}.role", f"give one of {', '.join(_ROLES)}")
    if unknown := next((name for name in fields if name not in _FIELDS | _IGNORED), None):
        raise refused(f"{place}.{unknown[:100]}", "this engine does not know or support the field")
    content = message.get("content")
    if content is None and role != "assistant":
        raise refused(f"{place}.content", "a text, or a list of text parts, is required")
    _check_sizes(place, fields)
    _check_parts(f"{place}.content", content)
    try:
        return {"role": "tool" if role == "function" else role, "content": plain_content(content)} | carried(fields)
    except ValueError as error:
        raise refused(place, str(error)) from None


def _check_sizes(place: str, fields: Mapping[str, Any]) -> None:
    for name, limit in (("content", MAX_PARTS), ("tool_calls", MAX_CALLS)):
        value = fields.get(name)
        if isinstance(value, list) and len(value) > limit:
            raise refused(f"{place}.{name}", f"{len(value)} of them: a message has {limit} at most")


def _check_parts(place: str, content: Any) -> None:
    for index, part in enumerate(content if isinstance(content, list) else ()):
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
            named = spelled(kind if isinstance(part, dict) else part)
            raise refused(f"{place}.{index}", f"a part of type {named}: this engine takes parts of text alone")
        for name in given(part):
            if name not in {"type", "text"} | _PART_IGNORED:
                raise refused(f"{place}.{index}.{name[:100]}", "this engine does not know or support the field")


def _template(tokenizer: Any) -> str:
    """The template that is used; a tokenizer may have several by name."""
    found = tokenizer.chat_template
    return str(found.get("default", "")) if isinstance(found, dict) else str(found or "")


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
        return  # the template says itself what it refuses, when it gets the messages
    for index, message in enumerate(messages):
        if "tool_calls" in message and "probed_function" not in rendered:
            raise refused(f"messages.{index}.tool_calls", "this model's chat template leaves calls of tools out")
        if message["role"] == "tool" and "a probed result" not in rendered:
            raise refused(f"messages.{index}.role", "this model's chat template leaves results of tools out")

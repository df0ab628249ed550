"""Turns conversations in the common formats of data sets into turns. Pure.

Supported are OpenAI's messages (role and content, content in parts, tool calls and results) and ShareGPT's (from and
value), as JSON text or as columns of a struct. Everything else raises Unreadable.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from driftloop.contract.messages import CARRIED, TEXT_PARTS, carried, plain_content, spelled, tool_call
from driftloop.contract.text import is_blank
from driftloop_trainer.data.cells import Unreadable, cell_text, is_nothing
from driftloop_trainer.data.rows import Turn

# The names that templates use, by the names in data sets.
_ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "ai": "assistant", "model": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "ipython": "tool",
    "function_call": "assistant",
}  # fmt: skip
# Fields of a message that are read, and fields that control training on it, which are refused if not supported.
_READ = frozenset({"role", "content", "from", "value", "weight", "train", "images", "audio", "videos", *CARRIED})
THOUGHT_END = "</think>"  # templates of reasoning models take what follows for the answer, and may drop what precedes
# The beginning of messages or text parts in Python's syntax, which pandas and numpy write into CSV. The keys of an
# object may be in any order.
_FIRST = r"\s*'(?:role|content|from|value)'\s*:"
_MESSAGE = rf"(?:{_FIRST}|(?=[^{{}}]*'(?:role|from)'\s*:)(?=[^{{}}]*'(?:content|value)'\s*:))"
_PART = r"(?=[^{}]*'type'\s*:\s*'(?:input_|output_)?text')(?=[^{}]*'text'\s*:)"
_ROLE = r"(?=[^{}]*'(?:role|from)'\s*:\s*'(?:system|developer|user|human|assistant|gpt|tool)')"
_PYTHON = re.compile(rf"\s*(?:array\(\s*)?\[\s*\{{(?:{_MESSAGE}|{_PART})|\s*\{{{_ROLE}{_MESSAGE}")
_PYTHON_PARTS = re.compile(rf"\s*(?:array\(\s*)?\[\s*\{{{_PART}")
_PYTHON_ENDS = ("]", ")", "}")
_JSON = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:role|content|from|value)"\s*:')
_JSON_LIST = re.compile(r'\s*\[\s*\{\s*"')


def conversation(value: Any) -> tuple[Turn, ...]:
    """The turns in a cell; none if it is empty. Raises Unreadable that names the message."""
    messages = _messages(value)
    turns = []
    for number, message in enumerate(messages, start=1):
        try:
            turns.append(_turn(message))
        except ValueError as error:
            raise Unreadable(f"message {number}: {error}") from error
    return tuple(turns)


def is_conversation(value: Any) -> bool:
    """Whether a cell contains messages: a list of messages, a single one, or their JSON text.

    Raises Unreadable for a list in Python's syntax, which pandas writes into CSV:
    https://github.com/pandas-dev/pandas/issues/12959
    """
    if isinstance(value, str):
        _refuse_python(_PYTHON, value)
        if _JSON.match(value):
            return is_conversation(_parsed(value))
        return bool(_JSON_LIST.match(value)) and _has_known_roles(_parsed(value))
    if isinstance(value, list):
        return bool(value) and all(_is_message(message) for message in value)
    return _is_message(value)


def answers_nothing(turn: Turn) -> bool:
    """Whether the turn is the assistant's and has neither text nor tool calls, so that there is nothing to learn.

    Text before the end of a thought is not an answer.
    """
    answer = turn.content.rpartition(THOUGHT_END)[2]
    return turn.role == "assistant" and is_blank(answer) and not calls_tools(turn)


def calls_tools(turn: Turn) -> bool:
    """Whether the turn has tool calls. The search is safe, as JSON escapes quotes within strings."""
    return '"tool_calls": [' in turn.extra


def tool_schemas(value: Any) -> str:
    """The JSON list of tool schemas in a cell; an empty string without any. Raises Unreadable."""
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Unreadable(f"not JSON ({error}): must be a list of tool schemas") from error
    if is_nothing(value) or value in ("", []):
        return ""
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise Unreadable(f"{spelled(value)} is not a list of tool schemas, each an object")
    return json.dumps(value, ensure_ascii=False)


def _refuse_python(beginning: re.Pattern[str], text: str) -> None:
    if beginning.match(text) and text.rstrip().endswith(_PYTHON_ENDS):
        raise Unreadable("messages in Python's syntax: write them as JSON (json.dumps), or use JSON lines")


def _has_known_roles(value: Any) -> bool:
    """Whether a list contains only messages: another list of objects may be what the model is asked about."""
    return is_conversation(value) and all(_role(message.get("role") or message.get("from")) for message in value)


def _role(name: Any) -> str | None:
    return _ROLES.get(name.strip().lower()) if isinstance(name, str) else None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _is_message(value: Any) -> bool:
    fields = value.keys() if isinstance(value, dict) else set()
    return ("role" in fields and bool({"content", "tool_calls"} & fields)) or {"from", "value"} <= fields


def _messages(value: Any) -> Sequence[Any]:
    if is_nothing(value):
        return ()
    if isinstance(value, str):
        if not value.strip():
            return ()
        if _PYTHON.match(value):
            raise Unreadable("a list in Python's syntax, not JSON: write it with json.dumps")
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise Unreadable(f"not JSON: {error}") from error
    if isinstance(value, dict):
        return _rows_of_columns(value)
    if not isinstance(value, list):
        raise Unreadable(f"{spelled(value)} is not a list of messages, each an object with role and content")
    return value


def _rows_of_columns(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages in a single message, or in `{role: [...], content: [...]}`.

    `datasets` stores a list of objects in the second form: https://github.com/huggingface/datasets/issues/888
    """
    if _is_message(value) and not any(isinstance(cell, list) for cell in (value.get("role"), value.get("from"))):
        return [value]
    lengths = {len(column) if isinstance(column, list) else -1 for column in value.values()}
    if not _is_message(value) or len(lengths) != 1 or -1 in lengths:
        raise Unreadable(f"{spelled(value)} is not a list of messages, each an object with role and content")
    return [dict(zip(value, row, strict=True)) for row in zip(*value.values(), strict=True)]


def _turn(message: Any) -> Turn:
    """One message as a turn. Raises ValueError."""
    if not isinstance(message, Mapping):
        raise ValueError(f"{spelled(message)} is not an object with role and content")
    if message.get("from") is not None and message.get("role") is None:  # ShareGPT
        message = {**message, "role": message["from"], "content": message.get("value")}
    name = message.get("role")
    role = _role(name)
    if role is None:
        raise ValueError(f"the role is {spelled(name)}, not system, user, assistant or tool")
    unread = tuple(sorted(field for field, value in message.items() if field not in _READ and not _is_unset(value)))
    _refuse_lossy(message, role, unread)
    if name == "function_call":
        return Turn(role, "", _as_json({"tool_calls": _function_calls(message.get("content"))}), unread)
    return Turn(role, _content(message.get("content"), role), _as_json(carried(message)), unread)


def _is_unset(value: Any) -> bool:
    return is_nothing(value) or (isinstance(value, str | list | dict) and not value)


def _refuse_lossy(message: Mapping[str, Any], role: str, unread: Sequence[str]) -> None:
    """Raise ValueError if reading the message would lose content or ignore how to train on it."""
    # A message without other fields is just empty: in Parquet, null content is left out.
    if unread and not ({"content", "value", "tool_calls", "function_call"} & message.keys()):
        raise ValueError(f"has neither content nor tool_calls but {', '.join(message)}")
    for field in ("images", "audio", "videos"):
        if message.get(field):
            raise ValueError(f"has {field}: only text can be read")
    for field, default in (("weight", 1), ("train", True)):
        if role == "assistant" and message.get(field, default) not in (default, None):
            raise ValueError(f"{field} {message[field]}: single messages can't be left out of the loss: drop the row")


def _content(content: Any, role: str) -> str:
    if role == "tool" and isinstance(content, list | dict) and not _has_parts(content):
        return json.dumps(content, ensure_ascii=False)  # the tool's result as JSON text
    if isinstance(content, str) and role != "tool":
        _refuse_python(_PYTHON_PARTS, content)
    if isinstance(content, list | str | None):
        return plain_content(content)
    return cell_text(content) or ""


def _has_parts(content: list[Any] | dict[str, Any]) -> bool:
    """Whether a tool's result is a list of content parts. Raises ValueError if that is ambiguous."""
    if isinstance(content, dict):
        return False
    kinds = [part.get("type") for part in content if isinstance(part, Mapping) and isinstance(part.get("type"), str)]
    if not kinds:
        return False
    if len(kinds) == len(content) and set(kinds) <= set(TEXT_PARTS):
        return True
    raise ValueError(
        f"the tool's result is a list with type {kinds[0]!r}: only text parts can be read; write any other list as "
        "JSON text"
    )


def _function_calls(value: Any) -> list[dict[str, Any]]:
    """The calls in ShareGPT's function_call: the JSON of one call or of a list."""
    calls = _parsed(value) if isinstance(value, str) else value
    if not calls or not isinstance(calls, list | dict):
        raise ValueError(f"function_call is {spelled(value)}, not the JSON of a call with name and arguments")
    return [tool_call(call) for call in (calls if isinstance(calls, list) else [calls])]


def _as_json(extra: dict[str, Any]) -> str:
    """JSON with sorted keys. The arguments of a call keep their order, as templates render them."""
    return json.dumps(dict(sorted(extra.items())), ensure_ascii=False) if extra else ""

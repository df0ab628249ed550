"""The prompt in a request, for drift counters and feedback. Pure."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from driftloop.contract.items import messages_of
from driftloop.contract.messages import UNREADABLE, carried, plain_content
from driftloop.contract.text import conversation_identity


@dataclass(frozen=True, slots=True)
class Prompt:
    """`text`: the prompt, or the last user message. `messages`: the conversation, if it is more than that message.

    `tools` is the request's JSON list of tool schemas. It doesn't count for equality and hash, as clients send only the
    messages with a correction.
    """

    text: str
    messages: tuple[dict[str, Any], ...] = ()
    tools: str = field(default="", compare=False)

    @property
    def hash(self) -> bytes:
        """16 bytes of the sha256 of text and messages."""
        document = json.dumps([self.text, self.messages], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(document.encode()).digest()[:16]

    @property
    def readable(self) -> bool:
        """Whether all of it is text, so that training can use it."""
        return not any(UNREADABLE in message for message in self.messages)

    @property
    def identity(self) -> str:
        """The text that decides the side of the fence, the same as in prepare."""
        return conversation_identity(self.messages) if self.messages else self.text

    @property
    def size(self) -> int:
        """Number of characters."""
        return len(self.text) + len(self.tools) + sum(_size(message) for message in self.messages)

    def stored(self) -> dict[str, Any]:
        """The fields of a feedback row for this prompt."""
        conversation = {"messages": list(self.messages)} if self.messages else {}
        return {"prompt": self.text} | conversation | ({"tools": self.tools} if self.tools else {})


def prompt_of(body: dict[str, Any]) -> Prompt | None:
    """The prompt in a request's body; None if it has no text (token ids, only images, a malformed body)."""
    if "messages" in body:
        return prompt_from(body["messages"], _dumped(body.get("tools")))
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    return prompt_from(prompt)


def prompt_of_response(body: dict[str, Any]) -> Prompt | None:
    """The prompt in a request of the Responses API, as the same conversation of a chat has it; None if it has no text.

    Its `instructions` are the system message of that conversation.
    """
    items = body.get("input")
    if isinstance(items, str):
        items = [{"role": "user", "content": items}]
    if not isinstance(items, list):
        return None
    instructions = body.get("instructions")
    system = [{"role": "system", "content": instructions}] if isinstance(instructions, str) and instructions else []
    tools = body.get("tools")
    return prompt_from([*system, *items], _dumped([_tool(t) for t in tools] if isinstance(tools, list) else tools))


def prompt_from(value: Any, tools: str = "") -> Prompt | None:
    """The prompt in a string, or a list of messages or of the Responses API's items; None for anything else."""
    if isinstance(value, str):
        return Prompt(value)
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        return None
    messages = [_message(message) for message in messages_of(value)]
    turns = [message["content"] for message in messages if message["role"] == "user"]
    if not turns:
        return None
    alone = len(messages) == 1 and messages[0].keys() == {"role", "content"}
    return Prompt(turns[-1], () if alone else tuple(messages), tools)


def _message(message: dict[str, Any]) -> dict[str, Any]:
    """A message in the same form as in training data."""
    role, content = _string(message.get("role")), message.get("content")
    try:
        return {"role": role, "content": plain_content(content), **carried(message)}
    except ValueError as error:
        return {"role": role, "content": _text(content), UNREADABLE: str(error)[:200]}


def _tool(tool: Any) -> Any:
    """A function of the Responses API as chats have it; other tools unchanged."""
    if not isinstance(tool, dict) or tool.get("type") != "function" or "function" in tool:
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}


def _dumped(tools: Any) -> str:
    return json.dumps(tools, ensure_ascii=False) if tools else ""


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts: Sequence[Any] = content if isinstance(content, list) else ()
    return "".join(_string(part.get("text")) for part in parts if isinstance(part, dict))


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _size(message: dict[str, Any]) -> int:
    return len(message["content"]) + (len(json.dumps(message)) if len(message) > 2 else 0)

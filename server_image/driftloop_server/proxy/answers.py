"""Rewrites the engine's answers: replaces the id with a signed one, and keeps the text for feedback. Pure."""

import json
from typing import Any, NamedTuple

MAX_EVENT = 1 << 20  # bytes of one event in a stream
MAX_KEPT = 64 << 10  # characters of an answer that are kept for feedback

_DATA = b"data:"
_DONE = b"[DONE]"


class AnswerTooLong(ValueError):
    """An event in the stream is longer than MAX_EVENT."""


class Rewritten(NamedTuple):
    """An answer with a new id. `text` is cut after MAX_KEPT; `whole`: it is complete, and the model ended it."""

    body: bytes
    text: str
    tokens: int
    whole: bool


def rewrite(body: bytes, identity: str) -> Rewritten:
    """Rewrite an answer that is not a stream. Raises ValueError if it is not a JSON object."""
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    document["id"] = identity
    text = _text(document, "message")
    whole = _ended(document) and not _calls(document, "message") and len(text) < MAX_KEPT
    return Rewritten(_dump(document), text[:MAX_KEPT], _tokens(document) or 0, whole)


class EventRewriter:
    """Rewrites a stream of server-sent events, which arrives in arbitrary blocks."""

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._rest = b""
        self._parts: list[str] = []
        self._kept = 0
        self._pieces = 0
        self._counted: int | None = None
        self._has_ended = self._has_calls = False
        self.failed = False  # whether the engine reported an error in the stream

    @property
    def tokens(self) -> int:
        """Tokens so far: the engine's count if it sent one, else the number of events, mostly one per token."""
        return self._pieces if self._counted is None else self._counted

    @property
    def text(self) -> str:
        """The answer so far, cut after MAX_KEPT."""
        return "".join(self._parts)

    @property
    def whole(self) -> bool:
        """Whether `text` is the complete answer, and the model ended it."""
        return self._has_ended and not self._has_calls and self._kept < MAX_KEPT

    def feed(self, block: bytes) -> bytes:
        """Add a block. Returns the complete lines, rewritten. Raises AnswerTooLong."""
        *lines, self._rest = (self._rest + block).split(b"\n")
        if len(self._rest) > MAX_EVENT:
            raise AnswerTooLong(f"the engine sent an event of more than {MAX_EVENT} bytes")
        return b"".join(self._line(line) + b"\n" for line in lines)

    def flush(self) -> bytes:
        """The text after the last end of line, rewritten."""
        rest, self._rest = self._rest, b""
        return self._line(rest) if rest else b""

    def _line(self, line: bytes) -> bytes:
        if not line.startswith(_DATA):
            return line
        data = line[len(_DATA) :].strip()
        if data == _DONE:
            return line
        try:
            document = json.loads(data)
        except ValueError:
            return line
        if not isinstance(document, dict):
            return line
        self.failed |= bool(document.get("error"))
        if "id" not in document:
            return line
        document["id"] = self._identity
        self._keep(_text(document, "delta"))
        self._has_ended |= _ended(document)
        self._has_calls |= _calls(document, "delta")
        self._pieces += bool(document.get("choices"))
        counted = _tokens(document)
        self._counted = self._counted if counted is None else counted
        return b"data: " + _dump(document)

    def _keep(self, text: str) -> None:
        if text and self._kept < MAX_KEPT:
            self._parts.append(text)
            self._kept += len(text)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _tokens(document: dict[str, Any]) -> int | None:
    """The engine's count of output tokens; None if it sent none."""
    usage = document.get("usage")
    tokens = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return tokens if isinstance(tokens, int) and tokens >= 0 else None


def _text(document: dict[str, Any], part: str) -> str:
    """Text of the first choice: `text` of a completion, `content` of a chat's message or delta."""
    choice = _choice(document)
    inner = choice.get(part)
    text = inner.get("content") if isinstance(inner, dict) else choice.get("text")
    return text if isinstance(text, str) else ""


def _ended(document: dict[str, Any]) -> bool:
    """Whether the model ended the answer, not a limit."""
    return bool(_choice(document).get("finish_reason") == "stop")


def _calls(document: dict[str, Any], part: str) -> bool:
    """Whether the answer calls tools, with or without text."""
    inner = _choice(document).get(part)
    return isinstance(inner, dict) and bool(inner.get("tool_calls") or inner.get("function_call"))


def _choice(document: dict[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    return choice if isinstance(choice, dict) else {}

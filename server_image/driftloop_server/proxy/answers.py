"""Rewrites the engine's answers: replaces the id with a signed one, and keeps the text for feedback. Pure."""

import json
from typing import Any, Literal, NamedTuple

from driftloop.contract.text import is_blank
from driftloop_server.proxy.formats import Format, Said

MAX_EVENT = 1 << 20  # bytes of one event in a stream
MAX_KEPT = 64 << 10  # characters of an answer that are kept for feedback

Ending = Literal["complete", "cut", "empty", "refused"]  # ENDINGS of the contract

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
    ending: Ending


def rewrite(body: bytes, identity: str, kind: Format) -> Rewritten:
    """Rewrite an answer that is not a stream. Raises ValueError if it is not a JSON object."""
    document = json.loads(body)
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    kind.sign(document, identity)
    said = kind.whole(document)
    whole = said.ended and not said.calls and len(said.text) < MAX_KEPT
    is_empty = is_blank(said.text) and not said.calls
    ending = _ending(said.finish, is_empty=is_empty, refused=said.refuses)
    return Rewritten(_dump(document), said.text[:MAX_KEPT], said.tokens or 0, whole, ending)


class EventRewriter:
    """Rewrites a stream of server-sent events, which arrives in arbitrary blocks."""

    def __init__(self, identity: str, kind: Format) -> None:
        self._identity, self._kind = identity, kind
        self._rest = b""
        self._parts: list[str] = []
        self._kept = 0
        self._pieces = 0
        self._counted: int | None = None
        self._has_ended = self._has_calls = self._has_text = self._has_refused = False
        self._reason: str | None = None
        self.failed = False  # whether the engine reported an error in the stream
        self.begun = False  # whether a token has arrived, of the answer or of the thoughts before it

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

    @property
    def ending(self) -> Ending | None:
        """How the answer ended; None if the stream has not said so."""
        if self._reason is None:
            return None
        return _ending(self._reason, is_empty=not (self._has_text or self._has_calls), refused=self._has_refused)

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
        self.failed |= self._kind.has_failed(document)
        self._read(self._kind.event(document))
        return b"data: " + _dump(document) if self._kind.sign(document, self._identity) else line

    def _read(self, said: Said) -> None:
        self._keep(said.text)
        self._has_text |= bool(said.text.strip())
        self._has_refused |= said.refuses
        self._reason = said.finish or self._reason
        self.begun |= bool(said.text) or said.calls or said.refuses or said.thinks
        self._has_ended |= said.ended
        self._has_calls |= said.calls
        self._pieces += said.is_piece
        self._counted = self._counted if said.tokens is None else said.tokens

    def _keep(self, text: str) -> None:
        if text and self._kept < MAX_KEPT:
            self._parts.append(text)
            self._kept += len(text)


def _dump(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _ending(reason: str | None, *, is_empty: bool, refused: bool) -> Ending:
    """An answer that thinks up to its limit is empty: its client got nothing."""
    if refused or reason == "content_filter":
        return "refused"
    if is_empty:
        return "empty"
    return "cut" if reason == "length" else "complete"

"""Where the id, the text and the tokens are in the answers of each API. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What an answer, or one event of a stream, says.

    Of several choices, `text`, `ended` and `calls` are of the first one. `tokens`: the engine's count of output tokens;
    None if it sent none. `ended`: the model ended the answer, not a limit. `calls`: it calls tools. `is_piece`: an
    event with a new part of the answer. `finish`: why it ended, in the words of chats; None before its end. `refuses`:
    the engine marked it as a refusal. `thinks`: an event with a part that is not the answer itself.
    """

    text: str = ""
    tokens: int | None = None
    ended: bool = False
    calls: bool = False
    is_piece: bool = False
    finish: str | None = None
    refuses: bool = False
    thinks: bool = False


class Format(Protocol):
    """The answers of one API."""

    def sign(self, document: Document, identity: str) -> bool:
        """Replace the id. Returns False if the document has none."""

    def whole(self, document: Document) -> Said:
        """Read an answer that is not a stream."""

    def event(self, document: Document) -> Said:
        """Read an event of a stream."""

    def has_failed(self, document: Document) -> bool:
        """Whether the engine reports an error with this event."""


class Choices:
    """Chats and completions: a list of choices. `model`: how the client calls the model; None: as the engine does."""

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    def sign(self, document: Document, identity: str) -> bool:
        has_id = "id" in document
        document["id"] = identity
        _rename(document, self._model)
        return has_id

    def whole(self, document: Document) -> Said:
        return self._said(document, "message")

    def event(self, document: Document) -> Said:
        return self._said(document, "delta")

    def has_failed(self, document: Document) -> bool:
        return bool(document.get("error"))

    def _said(self, document: Document, part: str) -> Said:
        choices = [choice for choice in _list(document.get("choices")) if isinstance(choice, dict)]
        first: Document = next((choice for choice in choices if choice.get("index", 0) == 0), {})
        inner = first.get(part)
        text = inner.get("content") if isinstance(inner, dict) else first.get("text")
        finish, said = first.get("finish_reason"), inner if isinstance(inner, dict) else {}
        return Said(
            text=text if isinstance(text, str) else "",
            tokens=_count(document.get("usage"), "completion_tokens"),
            ended=finish == "stop",
            calls=bool(said.get("tool_calls") or said.get("function_call")),
            is_piece=bool(choices),
            finish=finish if isinstance(finish, str) else None,
            refuses=bool(said.get("refusal")),
            thinks=bool(said.get("reasoning_content") or said.get("reasoning")),
        )


class Responses:
    """The Responses API: a list of output items. Events have a type, and some have the whole response in a field."""

    def __init__(self, model: str | None = None) -> None:
        self._model = model

    def sign(self, document: Document, identity: str) -> bool:
        response = document if document.get("object") == "response" else document.get("response")
        if not isinstance(response, dict):
            return False
        response["id"] = identity
        _rename(response, self._model)
        return True

    def whole(self, document: Document) -> Said:
        items = [item for item in _list(document.get("output")) if isinstance(item, dict)]
        parts = [part for item in items if item.get("type") == "message" for part in _list(item.get("content"))]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        return Said(
            text="".join(text for text in texts if isinstance(text, str)),
            tokens=_count(document.get("usage"), "output_tokens"),
            ended=document.get("status") == "completed",
            calls=any(item.get("type") not in ("message", "reasoning") for item in items),
            finish=_finish(document),
            refuses=any(isinstance(part, dict) and part.get("type") == "refusal" for part in parts),
        )

    def event(self, document: Document) -> Said:
        """The text is in the deltas. The final event has it again, with the rest."""
        kind, delta = str(document.get("type")), document.get("delta")
        if kind == "response.output_text.delta":
            return Said(text=delta if isinstance(delta, str) else "", is_piece=True)
        response = document.get("response")
        if not isinstance(response, dict):
            return Said(is_piece=isinstance(delta, str), thinks=isinstance(delta, str))
        whole = self.whole(response)
        return Said(
            tokens=whole.tokens,
            ended=whole.ended,
            calls=whole.calls,
            finish=whole.finish,
            refuses=whole.refuses,
        )

    def has_failed(self, document: Document) -> bool:
        return document.get("type") in ("error", "response.failed") or bool(document.get("error"))


def _rename(document: Document, model: str | None) -> None:
    if model is not None and "model" in document:
        document["model"] = model


def _finish(response: Document) -> str | None:
    """Why a response ended, in the words of chats."""
    details = response.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    match response.get("status"):
        case "completed":
            return "stop"
        case "incomplete":
            return "content_filter" if reason == "content_filter" else "length"
        case _:
            return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(usage: Any, name: str) -> int | None:
    tokens = usage.get(name) if isinstance(usage, Mapping) else None
    return tokens if isinstance(tokens, int) and tokens >= 0 else None

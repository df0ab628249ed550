"""A row of data, in the same form for all files."""

import json
import unicodedata
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from driftloop.contract.text import conversation_identity, normalise, row_key

Part = Literal["data", "feedback", "replay", "augment"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    `extra` is a JSON object, with sorted keys, of the message's other fields for chat templates: tool_calls,
    tool_call_id, name, reasoning_content; an empty string without any. `unread` has the names of its further non-empty
    fields, which are ignored.
    """

    role: str
    content: str
    extra: str = ""
    unread: tuple[str, ...] = field(default=(), compare=False)

    def message(self) -> dict[str, Any]:
        """The message for `apply_chat_template`. Content is always a string, as templates concatenate it."""
        return {"role": self.role, "content": self.content} | (json.loads(self.extra) if self.extra else {})


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation with its answer, or plain text. Exactly one of `turns` and `text` is set.

    With `rejected` it is a pair of answers: the last of `turns` was preferred to it. `label`: whether the answer is a
    good one, if the row says so.
    """

    part: Part
    source: str
    turns: tuple[Turn, ...] = ()
    text: str = ""
    rejected: Turn | None = None
    label: bool | None = None
    tools: str = ""  # JSON list of the tool schemas for the template
    cluster: str | None = None  # rows of one cluster are not independent, such as the feedback of one user
    place: str = field(default="", compare=False)  # place in the source, for error messages: "line 12", "row 12"

    @classmethod
    def answering(
        cls, part: Part, source: str, prompt: str, completion: str | None = None, *, history: tuple[Turn, ...] = (),
        cluster: str | None = None, place: str = "",
    ) -> "Row":  # fmt: skip
        """A row with a user's prompt after the turns in `history`, and optionally its completion."""
        answer = () if completion is None else (Turn("assistant", completion),)
        return cls(part, source, (*history, Turn("user", prompt), *answer), cluster=cluster, place=place)

    @property
    def where(self) -> str:
        """Source and place of the row, for error messages."""
        return f"source {self.source}, {self.place}" if self.place else f"source {self.source}"

    @property
    def kind(self) -> Literal["text", "chat"]:
        """Whether the row is plain text or a conversation."""
        return "chat" if self.turns else "text"

    @property
    def answer(self) -> Turn | None:
        """The last turn if it is the assistant's, else None."""
        return self.turns[-1] if self.turns and self.turns[-1].role == "assistant" else None

    @property
    def answer_key(self) -> tuple[str, str] | None:
        """The answer for comparisons, without differences of case and spacing."""
        return None if self.answer is None else _answer_key(self.answer)

    @property
    def rejected_key(self) -> tuple[str, str] | None:
        """The rejected answer, in the same form as `answer_key`."""
        return None if self.rejected is None else _answer_key(self.rejected)

    @property
    def prefers_nothing(self) -> bool:
        """Whether it is a pair of equal answers, without regard to blanks around them."""
        if self.answer is None or self.rejected is None:
            return False
        return _tidied(self.answer) == _tidied(self.rejected)

    @property
    def all_turns(self) -> tuple[Turn, ...]:
        """The turns, and the rejected answer."""
        return self.turns if self.rejected is None else (*self.turns, self.rejected)

    @property
    def question(self) -> tuple[Turn, ...]:
        """The turns without the answer."""
        return self.turns if self.answer is None else self.turns[:-1]

    @property
    def completion(self) -> str | None:
        """The answer's content; None without an answer, empty if the answer has only tool calls."""
        return None if self.answer is None else self.answer.content

    @property
    def prompt(self) -> str:
        """The plain text, or the content of the last user turn."""
        return next((turn.content for turn in reversed(self.question) if turn.role == "user"), self.text)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns before the last user turn."""
        users = [position for position, turn in enumerate(self.question) if turn.role == "user"]
        return self.question[: users[-1]] if users else self.question

    @property
    def identity(self) -> str:
        """The text that decides the row's side: the plain text, or the conversation before the answer."""
        return conversation_identity(turn.message() for turn in self.question) if self.turns else self.text

    @property
    def key(self) -> str:
        """`row_key` of the identity, 64 hex digits."""
        return row_key(self.identity)

    def answered(self) -> "list[Row]":
        """The row itself, and its conversation up to each earlier answer, as training uses these answers too."""
        ends = [end for end, turn in enumerate(self.turns[:-1], 1) if turn.role == "assistant"]
        return [self, *(replace(self, turns=self.turns[:end]) for end in ends)]

    @property
    def unread(self) -> frozenset[str]:
        """Names of the ignored fields of its messages."""
        return frozenset(name for turn in self.all_turns for name in turn.unread)

    @property
    def characters(self) -> int:
        """Number of characters in all its text."""
        return len(self.text) + sum(len(turn.content) + len(turn.extra) for turn in self.all_turns)

    @property
    def is_unicode(self) -> bool:
        """Whether all its text can be encoded. A cut through an emoji leaves half of a surrogate pair."""
        try:
            for text in (
                self.text,
                self.tools,
                *(part for turn in self.all_turns for part in (turn.content, turn.extra)),
            ):
                text.encode()
        except UnicodeEncodeError:
            return False
        return True

    def normalised(self) -> "Row":
        """The row with normalised Unicode and line ends, and without whitespace around its texts.

        Whitespace inside is kept: lines and indentation belong to code, lists and tables, and real prompts have them.
        """
        rejected = None if self.rejected is None else _tidied(self.rejected)
        return replace(self, turns=tuple(map(_tidied, self.turns)), text=_tidy(self.text), rejected=rejected)


def _answer_key(answer: Turn) -> tuple[str, str]:
    return normalise(answer.content).casefold(), answer.extra


def _tidied(turn: Turn) -> Turn:
    return replace(turn, content=_tidy(turn.content))


def _tidy(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()

"""A row of data, whatever file and column names it came from."""

import json
import unicodedata
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from driftloop.contract.text import conversation_identity, normalise, row_key

Part = Literal["data", "feedback", "replay", "augment"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation.

    `extra` is a JSON object, keys sorted, of what else the message carries and chat templates take: tool_calls,
    tool_call_id, name, reasoning_content. Empty where there is nothing. `unread` names its other fields that are set:
    nothing reads them.
    """

    role: str
    content: str
    extra: str = ""
    unread: tuple[str, ...] = field(default=(), compare=False)

    def message(self) -> dict[str, Any]:
        """What `apply_chat_template` takes. Content is a string beside tool calls too: templates concatenate it."""
        return {"role": self.role, "content": self.content} | (json.loads(self.extra) if self.extra else {})


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation in order, its answer included, or plain text. Exactly one of `turns` and `text` is set."""

    part: Part
    source: str
    turns: tuple[Turn, ...] = ()
    text: str = ""
    tools: str = ""  # JSON list of the tool schemas that the template is given
    cluster: str | None = None  # rows of one cluster are not independent: a user's feedback
    place: str = field(default="", compare=False)  # in the source, for messages: "line 12", "row 12"

    @classmethod
    def answering(
        cls, part: Part, source: str, prompt: str, completion: str | None = None, *, history: tuple[Turn, ...] = (),
        cluster: str | None = None, place: str = "",
    ) -> "Row":  # fmt: skip
        """A user's prompt, with or without its completion, after the turns of `history`."""
        answer = () if completion is None else (Turn("assistant", completion),)
        return cls(part, source, (*history, Turn("user", prompt), *answer), cluster=cluster, place=place)

    @property
    def where(self) -> str:
        """Where it came from, for messages."""
        return f"source {self.source}, {self.place}" if self.place else f"source {self.source}"

    @property
    def kind(self) -> Literal["text", "chat"]:
        """Whether it is a conversation."""
        return "chat" if self.turns else "text"

    @property
    def answer(self) -> Turn | None:
        """The final turn, where it is the assistant's: what there is to learn from the rest."""
        return self.turns[-1] if self.turns and self.turns[-1].role == "assistant" else None

    @property
    def answer_key(self) -> tuple[str, str] | None:
        """The answer as it is compared, case and spacing aside."""
        return None if self.answer is None else (normalise(self.answer.content).casefold(), self.answer.extra)

    @property
    def question(self) -> tuple[Turn, ...]:
        """The turns without the answer."""
        return self.turns if self.answer is None else self.turns[:-1]

    @property
    def completion(self) -> str | None:
        """The answer's content; None without an answer. Empty where the answer is nothing but tool calls."""
        return None if self.answer is None else self.answer.content

    @property
    def prompt(self) -> str:
        """The plain text, or the last user turn's content."""
        return next((turn.content for turn in reversed(self.question) if turn.role == "user"), self.text)

    @property
    def history(self) -> tuple[Turn, ...]:
        """The turns before the last user turn."""
        users = [position for position, turn in enumerate(self.question) if turn.role == "user"]
        return self.question[: users[-1]] if users else self.question

    @property
    def identity(self) -> str:
        """The text that decides the row's side: the plain text, or all that was said before the answer."""
        return conversation_identity(turn.message() for turn in self.question) if self.turns else self.text

    @property
    def key(self) -> str:
        """`row_key` of the identity: 64 hex characters."""
        return row_key(self.identity)

    def answered(self) -> "list[Row]":
        """The row itself, and its conversation up to each earlier answer, which is trained on as well."""
        ends = [end for end, turn in enumerate(self.turns[:-1], 1) if turn.role == "assistant"]
        return [self, *(replace(self, turns=self.turns[:end]) for end in ends)]

    @property
    def unread(self) -> frozenset[str]:
        """Fields of its messages that nothing reads."""
        return frozenset(name for turn in self.turns for name in turn.unread)

    @property
    def characters(self) -> int:
        """Length of all its text."""
        return len(self.text) + sum(len(turn.content) + len(turn.extra) for turn in self.turns)

    @property
    def is_unicode(self) -> bool:
        """Whether all its text can be encoded: half of a surrogate pair is what is left where an emoji was cut."""
        try:
            for text in (self.text, self.tools, *(part for turn in self.turns for part in (turn.content, turn.extra))):
                text.encode()
        except UnicodeEncodeError:
            return False
        return True

    def normalised(self) -> "Row":
        """The same row with every text in one spelling of Unicode and of line ends, nothing around it.

        What is inside stays: lines and indentation are part of code, lists and tables, and served prompts have them.
        """
        turns = tuple(replace(turn, content=_tidy(turn.content)) for turn in self.turns)
        return replace(self, turns=turns, text=_tidy(self.text))


def _tidy(text: str) -> str:
    return unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\r", "\n").strip()

"""A row of data, whatever file and column names it came from."""

from dataclasses import dataclass, replace
from typing import Literal

from driftloop.contract.text import normalise, row_key

Part = Literal["data", "feedback", "replay"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt with or without its completion, or plain text (`kind` text, held in `prompt`)."""

    part: Part
    source: str
    prompt: str
    completion: str | None = None
    kind: Literal["text", "chat"] = "chat"
    history: tuple[Turn, ...] = ()  # turns before the prompt
    cluster: str | None = None  # rows of one cluster are not independent: a user's feedback

    @property
    def identity(self) -> str:
        """The text that decides the row's side: the prompt; of a conversation all that users and model said so far.

        System turns don't count: the same question under another system prompt is the same question.
        """
        return "\n".join([*(turn.content for turn in self.history if turn.role != "system"), self.prompt])

    @property
    def key(self) -> str:
        """`row_key` of the identity: 64 hex characters."""
        return row_key(self.identity)

    @property
    def characters(self) -> int:
        """Length of all its text."""
        return sum(len(turn.content) for turn in self.history) + len(self.prompt) + len(self.completion or "")

    def normalised(self) -> "Row":
        """The same row with every text normalised."""
        return replace(
            self,
            prompt=normalise(self.prompt),
            completion=None if self.completion is None else normalise(self.completion),
            history=tuple(Turn(turn.role, normalise(turn.content)) for turn in self.history),
        )

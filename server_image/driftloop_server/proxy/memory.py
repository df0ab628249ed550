"""Remembers this pod's latest answers, so that feedback doesn't have to repeat them. Bounded in entries and size."""

from collections import OrderedDict
from dataclasses import dataclass

from driftloop.contract.prompts import Prompt

MAX_ENTRIES = 50_000
MAX_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt and its answer. `whole`: `completion` is the complete answer, and the model ended it."""

    prompt: Prompt
    completion: str
    whole: bool = True

    @property
    def size(self) -> int:
        return self.prompt.size + len(self.completion)


class Memory:
    """Answers by id. The oldest are dropped first."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_entries = max_entries
        self._max_characters = max_characters
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._characters = 0

    def add(self, identity: str, answer: Answer) -> None:
        """Add an answer. Each id must be added only once."""
        self._answers[identity] = answer
        self._characters += answer.size
        while len(self._answers) > self._max_entries or self._characters > self._max_characters:
            _, oldest = self._answers.popitem(last=False)
            self._characters -= oldest.size

    def get(self, identity: str) -> Answer | None:
        return self._answers.get(identity)

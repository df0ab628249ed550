"""The answers that this pod gave last, so that a correction need not repeat them. Bounded in entries and bytes."""

from collections import OrderedDict
from dataclasses import dataclass

from driftloop_server.proxy.prompts import Prompt

MAX_ENTRIES = 50_000
MAX_CHARACTERS = 32 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What was asked and what was answered. `whole`: the text is all of the answer, up to its own end."""

    prompt: Prompt
    completion: str
    whole: bool = True

    @property
    def size(self) -> int:
        return self.prompt.size + len(self.completion)


class Memory:
    """The oldest go first."""

    def __init__(self, max_entries: int = MAX_ENTRIES, max_characters: int = MAX_CHARACTERS) -> None:
        self._max_entries = max_entries
        self._max_characters = max_characters
        self._answers: OrderedDict[str, Answer] = OrderedDict()
        self._characters = 0

    def add(self, identity: str, answer: Answer) -> None:
        """Ids are given once."""
        self._answers[identity] = answer
        self._characters += answer.size
        while len(self._answers) > self._max_entries or self._characters > self._max_characters:
            _, oldest = self._answers.popitem(last=False)
            self._characters -= oldest.size

    def get(self, identity: str) -> Answer | None:
        return self._answers.get(identity)

"""From a row to token ids and labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.prepare.rows import Row, Turn


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of one row, and which of them count in the loss: the first `masked` ones don't."""

    ids: list[int]
    masked: int

    @property
    def labels(self) -> list[int]:
        """Ids, or IGNORED. The first token is never predicted, so it never counts."""
        masked = max(1, self.masked)
        return [IGNORED] * min(masked, len(self.ids)) + self.ids[masked:]

    @property
    def trained(self) -> int:
        """How many tokens count in the loss."""
        return max(0, len(self.ids) - max(1, self.masked))


class Renderer:
    """Renders rows for one tokenizer, as serving renders them: the prompt's tokens never depend on the answer's."""

    def __init__(
        self, tokenizer: Any, method: Literal["pretrain", "sft"], loss_on: Literal["all", "completion"], max_length: int
    ) -> None:
        self._tokenizer = tokenizer
        self._masks = method == "sft" and loss_on == "completion"
        self._max_length = max_length

    def example(self, row: Row) -> Example:
        """Tokens of a row, cut at the maximum length."""
        head, tail = self._halves(row)
        masked = len(head) if self._masks else 0
        return Example((head + tail)[: self._max_length], min(masked, self._max_length))

    def _halves(self, row: Row) -> tuple[list[int], list[int]]:
        """Ids before the completion, and from it on."""
        end = [self._tokenizer.eos_token_id]
        if row.kind == "text" or row.completion is None:
            return self._encode(row.prompt) + end, []
        if self._tokenizer.chat_template:
            before, after = self._template(row)
            return self._encode(before, special=False), self._encode(after, special=False)
        return self._encode(row.prompt), self._encode(row.completion, special=False) + end

    def _template(self, row: Row) -> tuple[str, str]:
        before = self._render(row.question, True)
        whole = self._render(row.turns, False)
        if not whole.startswith(before):
            raise StageFailure(
                "TemplateNotPrefix",
                "the chat template renders the prompt differently once it is answered, so the answer's tokens cannot "
                "be told from the prompt's: use a template whose generation prompt is the start of an answered turn",
            )
        return before, whole[len(before) :]

    def _render(self, turns: Sequence[Turn], generate: bool) -> str:
        messages = [turn.message() for turn in turns]
        return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))

    def _encode(self, text: str, special: bool = True) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

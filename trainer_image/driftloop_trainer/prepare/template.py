"""A tokenizer's chat template, rendered and tokenised as serving does it, with its failures as the user's to mend."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row

_MARK = "driftloop"
_CALL = {"id": "driftloop", "type": "function", "function": {"name": _MARK, "arguments": {}}}
_TOOL = {
    "type": "function",
    "function": {"name": _MARK, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_ASKING = {"role": "user", "content": "x"}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_RESULT = {"role": "tool", "name": _MARK, "content": _MARK, "tool_call_id": _CALL["id"]}
# What a row may hold and a template may leave out, with a conversation that shows it: messages, tools.
_PROBES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "system messages": ([{"role": "system", "content": _MARK}, _ASKING], None),
    "tool schemas": ([_ASKING], [_TOOL]),
    "tool calls": ([_ASKING, _CALLING], None),
    "reasoning": ([_ASKING, {"role": "assistant", "content": "x", "reasoning_content": _MARK}], None),
    "tool results": ([_ASKING, _CALLING | {"tool_calls": [_CALL | {"function": {"name": "f", "arguments": {}}}]},
                      _RESULT | {"name": "f"}], None),
}  # fmt: skip
# As transformers looks for TRL's tag: https://huggingface.co/docs/transformers/chat_templating_writing
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """The chat template of one tokenizer, which has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._shown: dict[str, bool] = {}  # by what a row may hold
        self._blank: dict[int, bool] = {}  # by token
        source = tokenizer.chat_template
        self.marks_answers = tokenizer.is_fast and isinstance(source, str) and bool(_GENERATION.search(source))

    def text(self, row: Row, turns: int, *, prompt: bool) -> str:
        """The first `turns` turns of a row, with `prompt` up to where an answer begins. Raises StageFailure."""
        try:
            return self._render(_messages(row, turns), _tools(row), add_generation_prompt=prompt)
        except Exception as error:  # a template is a program of somebody's: it may fail in any way
            raise _refused(row, error) from error

    def answers_marked(self, row: Row, turns: int) -> list[int]:
        """1 for each token of the first turns' text that is within the template's generation tags, else 0."""
        try:
            encoded = self._tokenizer.apply_chat_template(
                _messages(row, turns),
                tools=_tools(row),
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
        except Exception as error:
            raise _refused(row, error) from error
        return list(encoded["assistant_masks"])

    def check(self, row: Row) -> None:
        """Raises StageFailure when the template would leave out something of the row without a word."""
        for what in _held(row):
            if what not in self._shown:
                self._shown[what] = self._shows(*_PROBES[what])
            if not self._shown[what]:
                raise StageFailure(
                    StageReason.TEMPLATE_LOSES_CONTENT,
                    f"{row.where}: the chat template of the tokenizer leaves out {what}, so the model would learn "
                    "nothing of that: leave it out of the rows, or take a base model whose template renders it",
                )

    @cached_property
    def end(self) -> int | None:
        """The token that ends an assistant's turn; None where the template closes it with none."""
        return self._after_answer(_ASKING, {"role": "assistant", "content": _MARK})

    @cached_property
    def follower(self) -> int | None:
        """Where a template closes no turn: the token that every next turn begins with, as GLM-4 has it, if any."""
        return self._after_answer(_ASKING, {"role": "assistant", "content": _MARK}, _ASKING)

    def end_in(self, answer: Sequence[int]) -> int | None:
        """Position of the token that ends the turn within an answer as rendered; None where there is none.

        It is among the special tokens and blanks after the text: the one that ends every turn, or else the last.
        Templates write a newline after it, or the end of the text (Phi-3), or end tool calls otherwise (gpt-oss).
        """
        tail = [position for position in range(self._tail(answer), len(answer)) if answer[position] in self._special]
        return next((position for position in tail if answer[position] == self.end), tail[-1] if tail else None)

    def trimmed(self, answer: Sequence[int]) -> list[int]:
        """The answer without blank tokens at its end."""
        kept = list(answer)
        while kept and self._is_blank(kept[-1]):
            kept.pop()
        return kept

    def _render(self, messages: list[dict[str, Any]], tools: Any, **more: Any) -> str:
        return str(self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **more))

    def _shows(self, messages: list[dict[str, Any]], tools: list[dict[str, Any]] | None) -> bool:
        try:
            return _MARK in self._render(messages, tools)
        except Exception:  # then it refuses rows with such content in its own words
            return True

    def _after_answer(self, *messages: dict[str, Any]) -> int | None:
        """The special token that comes next after the answer _MARK, blanks aside."""
        try:
            _, found, after = self._render(list(messages), None).rpartition(_MARK)
        except Exception:  # the rows' own refusal has the words
            return None
        tokens = self._tokenizer(after, add_special_tokens=False)["input_ids"] if found else []
        first = next((token for token in tokens if not self._is_blank(token)), None)
        return first if first in self._special else None

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return frozenset([*self._tokenizer.all_special_ids, *(token for token, kind in added if kind.special)])

    def _tail(self, answer: Sequence[int]) -> int:
        """Where the special tokens and blanks at the end of an answer begin."""
        start = len(answer)
        while start and (answer[start - 1] in self._special or self._is_blank(answer[start - 1])):
            start -= 1
        return start

    def _is_blank(self, token: int) -> bool:
        if token not in self._blank:
            self._blank[token] = token not in self._special and not self._tokenizer.decode([token]).strip()
        return self._blank[token]


def _messages(row: Row, turns: int) -> list[dict[str, Any]]:
    return [turn.message() for turn in row.turns[:turns]]


def _tools(row: Row) -> list[dict[str, Any]] | None:
    return json.loads(row.tools) if row.tools else None


def _held(row: Row) -> list[str]:
    found = {
        "system messages": any(turn.role == "system" for turn in row.turns),
        "tool schemas": bool(row.tools),
        "tool calls": any('"tool_calls"' in turn.extra for turn in row.turns),
        "reasoning": any('"reasoning_content"' in turn.extra for turn in row.turns),
        "tool results": any(turn.role == "tool" for turn in row.turns),
    }
    return [what for what, held in found.items() if held]


def _refused(row: Row, error: Exception) -> StageFailure:
    words = (str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}")[:300]
    return StageFailure(
        StageReason.TEMPLATE_REFUSES_ROW,
        f"{row.where}: the chat template of the tokenizer refuses the conversation of {len(row.turns)} turns "
        f"({', '.join(turn.role for turn in row.turns[:8])}{', …' if len(row.turns) > 8 else ''}): {words}. "
        "Mend or leave out such rows, or take a base model with another template",
    )

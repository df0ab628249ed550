"""Renders and tokenises a chat template in the same way as serving. Its failures become errors for the user."""

import json
import re
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from jinja2 import TemplateError

from driftloop.contract.reasons import StageReason
from driftloop.contract.text import is_blank
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.conversations import THOUGHT_END, calls_tools
from driftloop_trainer.data.rows import Row

_MARK = "driftloop"
_CALL = {"id": "call00001", "type": "function", "function": {"name": _MARK, "arguments": {}}}
_TOOL = {
    "type": "function",
    "function": {"name": _MARK, "description": "", "parameters": {"type": "object", "properties": {}}},
}
_ASKING = {"role": "user", "content": "x"}
_CALLING = {"role": "assistant", "content": "", "tool_calls": [_CALL]}
_OTHER_CALL = _CALL | {"function": {"name": "f", "arguments": {}}}
_RESULT = {"role": "tool", "name": _MARK, "content": _MARK, "tool_call_id": _CALL["id"]}
# Content that a row may have and a template may leave out, each with a conversation (messages, tools) to test it.
_PROBES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "system messages": ([{"role": "system", "content": _MARK}, _ASKING], None),
    "tool schemas": ([_ASKING], [_TOOL]),
    "tool calls": ([_ASKING, _CALLING], None),
    "reasoning": ([_ASKING, {"role": "assistant", "content": "x", "reasoning_content": _MARK}], None),
    "tool results": ([_ASKING, _CALLING | {"tool_calls": [_OTHER_CALL]}, _RESULT | {"name": "f"}], None),
    "questions": ([_ASKING | {"content": _MARK}], None),
    "answers": ([_ASKING, {"role": "assistant", "content": _MARK}], None),
    "thoughts before answers": ([_ASKING, {"role": "assistant", "content": f"<think>\n{_MARK}\n{THOUGHT_END}\n\nx"}],
                                None),
    "text beside tool calls": ([_ASKING, _CALLING | {"content": _MARK, "tool_calls": [_OTHER_CALL]}], None),
}  # fmt: skip
# The same search as in transformers: https://huggingface.co/docs/transformers/chat_templating_writing
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")


class ChatTemplate:
    """The chat template of a tokenizer that has one."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._shown: dict[str, bool] = {}  # by kind of content, see _PROBES
        self._blank: dict[int, bool] = {}  # by token
        source = tokenizer.chat_template
        self.marks_answers = tokenizer.is_fast and isinstance(source, str) and bool(_GENERATION.search(source))

    def text(self, row: Row, turns: int, *, prompt: bool) -> str:
        """The text of the first `turns` messages; with `prompt` also the generation prompt. Raises StageFailure."""
        try:
            return self._render(_messages(row, turns), _tools(row), add_generation_prompt=prompt)
        except Exception as error:  # a template is a program by the model's author: it may raise anything
            raise _refused(row, error) from error

    def answers_marked(self, row: Row, turns: int) -> list[int]:
        """For each token of the first `turns` messages: 1 within the template's generation tags, else 0."""
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
        """Raise StageFailure if the template would silently leave out content of the row."""
        for content in _contents(row):
            if content not in self._shown:
                self._shown[content] = self._shows(*_PROBES[content])
            if not self._shown[content]:
                raise StageFailure(
                    StageReason.TEMPLATE_LOSES_CONTENT,
                    f"{row.where}: the chat template of the tokenizer leaves out {content}, so the model would not "
                    "learn it: remove it from the rows, or use a base model whose template renders it",
                )

    @cached_property
    def end(self) -> int | None:
        """The token that ends an assistant message; None if the template adds none."""
        return self._after_answer(_ASKING, {"role": "assistant", "content": _MARK})

    @cached_property
    def follower(self) -> int | None:
        """For a template that doesn't end messages (GLM-4): the token that starts every next message, if any."""
        return self._after_answer(_ASKING, {"role": "assistant", "content": _MARK}, _ASKING)

    def end_in(self, answer: Sequence[int]) -> int | None:
        """Position of the token that ends the message in a rendered answer; None if there is none.

        Of the special tokens and blanks after the text it is `end`, or else the last special token. Templates may add a
        newline or the end of the text (Phi-3) after it, or end tool calls differently (gpt-oss).
        """
        tail = [position for position in range(self._tail(answer), len(answer)) if answer[position] in self._special]
        return next((position for position in tail if answer[position] == self.end), tail[-1] if tail else None)

    def is_empty(self, answer: Sequence[int]) -> bool:
        """Whether a rendered answer is nothing but special tokens and blanks."""
        return self._tail(answer) == 0

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
        except Exception:  # the template refuses such content, and rendering the row reports its message
            return True

    def _after_answer(self, *messages: dict[str, Any]) -> int | None:
        """The first token after the answer _MARK that is not blank, if it is a special token."""
        try:
            _, mark, after = self._render(list(messages), None).rpartition(_MARK)
        except Exception:  # rendering a row reports the template's message
            return None
        tokens = self._tokenizer(after, add_special_tokens=False)["input_ids"] if mark else []
        first = next((token for token in tokens if not self._is_blank(token)), None)
        return first if first in self._special else None

    @cached_property
    def _special(self) -> frozenset[int]:
        added = self._tokenizer.added_tokens_decoder.items()
        return frozenset([*self._tokenizer.all_special_ids, *(token for token, kind in added if kind.special)])

    def _tail(self, answer: Sequence[int]) -> int:
        """Start of the special tokens and blanks at the end of an answer."""
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


def _contents(row: Row) -> list[str]:
    """The kinds of content in a row, by the names in _PROBES."""
    answers = [turn for turn in row.turns if turn.role == "assistant" and not is_blank(turn.content)]
    contents = {
        "questions": any(turn.role == "user" for turn in row.turns),
        "answers": bool(answers),
        "thoughts before answers": any(THOUGHT_END in turn.content for turn in answers),
        "text beside tool calls": any(calls_tools(turn) for turn in answers),
        "system messages": any(turn.role == "system" for turn in row.turns),
        "tool schemas": bool(row.tools),
        "tool calls": any(calls_tools(turn) for turn in row.turns),
        "reasoning": any('"reasoning_content"' in turn.extra for turn in row.turns),
        "tool results": any(turn.role == "tool" for turn in row.turns),
    }
    return [content for content, present in contents.items() if present]


def _refused(row: Row, error: Exception) -> StageFailure:
    reason = (str(error) if type(error) is TemplateError else f"{type(error).__name__}: {error}")[:300]
    return StageFailure(
        StageReason.TEMPLATE_REFUSES_ROW,
        f"{row.where}: the chat template of the tokenizer refuses the conversation of {len(row.turns)} turns "
        f"({', '.join(turn.role for turn in row.turns[:8])}{', …' if len(row.turns) > 8 else ''}): {reason}. "
        "Fix or remove such rows, or use a base model with another template",
    )

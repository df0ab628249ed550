"""Turns a row into token ids, and marks the tokens that count in the loss.

Training uses the same tokens as serving: before each answer are exactly the tokens that the server sends for the
conversation so far. If this holds for all answers of a conversation in one text, it is one example, and each answer
counts. Some templates render a message differently once others follow (Qwen3 drops earlier reasoning, gpt-oss ends the
last message differently); then the next answer starts another example.
"""

from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.prepare.template import ChatTemplate

Span = tuple[int, int]  # a range of positions of tokens that count: start, and end (exclusive)


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and the ascending spans of the tokens that count in the loss."""

    ids: Sequence[int]
    spans: tuple[Span, ...]

    @property
    def labels(self) -> list[int]:
        """For each token its id or IGNORED. The first token never counts, as it is not predicted."""
        labels = [IGNORED] * len(self.ids)
        for start, end in self._counted():
            labels[start:end] = self.ids[start:end]
        return labels

    @property
    def trained(self) -> int:
        """Number of tokens that count in the loss."""
        return sum(end - start for start, end in self._counted())

    def compact(self) -> "Example":
        """The same example with four bytes per token. In a list they take about ten times as many."""
        return replace(self, ids=array("i", self.ids))

    def _counted(self) -> list[Span]:
        return [(max(1, start), end) for start, end in self.spans if end > max(1, start)]


@dataclass(frozen=True, slots=True)
class Rendered:
    """The result of rendering a row.

    Without examples, `dropped` is the reason: `masked` (no token counts in the loss), `tooLong`, or `equalAnswers` (a
    pair of the same tokens). `reshaped`: whether the row was cut into `pieces`, `split` into several examples, or
    `shortened`. `tokens`: of its longest text, uncut. A pair has two examples, the chosen one first.
    """

    examples: tuple[Example, ...]
    tokens: int
    dropped: Literal["", "masked", "tooLong", "equalAnswers"] = ""
    reshaped: tuple[str, ...] = ()


class Renderer:
    """Renders rows for one tokenizer in the same way as serving: an answer never changes the tokens of its prompt."""

    def __init__(self, tokenizer: Any, training: TrainingSpec, context: int | None) -> None:
        """`context`: the model's maximal context in tokens, None without a limit."""
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        self._pretrains = training.method == "pretrain"
        self._all_counts = self._pretrains or training.loss_on == "all"
        self.context = context
        self.max_length = min(training.max_length, context or training.max_length)
        self.turn_ends: Counter[int] = Counter()  # tokens that ended an answer so far

    def render(self, row: Row) -> Rendered:
        """Render a row into examples of at most `max_length` tokens. Answers are never cut. Raises StageFailure."""
        if row.rejected is not None:
            return self._pair(row, row.rejected)
        if row.label is not None:
            return self._labelled(row)
        if row.kind == "text" or _is_lone_prompt(row):
            return self._text([*self._encode(row.text or row.prompt), self._tokenizer.eos_token_id])
        if self._template is None:
            return self._plain(row)
        self._template.check(row)
        return self._whole(row, self._template) if self._all_counts else self._answers(row, self._template)

    def _text(self, ids: list[int]) -> Rendered:
        if not self._all_counts:
            return Rendered((), len(ids), "masked")
        examples = pieces(ids, self.max_length)
        return Rendered(tuple(examples), len(ids), reshaped=("pieces",) if len(examples) > 1 else ())

    def _pair(self, row: Row, rejected: Turn) -> Rendered:
        """The last answer and the rejected one, each after the same tokens."""
        one, other = self._last_answer(row), self._last_answer(replace(row, turns=(*row.question, rejected)))
        longest = max(len(one.ids), len(other.ids))
        if longest > self.max_length:
            return Rendered((), longest, "tooLong")
        if not one.trained or not other.trained:
            return Rendered((), longest, "masked")
        if one.ids == other.ids:
            return Rendered((), longest, "equalAnswers")
        return Rendered((one, other), longest)

    def _labelled(self, row: Row) -> Rendered:
        """The last answer, to which the label belongs."""
        example = self._last_answer(row)
        if len(example.ids) > self.max_length:
            return Rendered((), len(example.ids), "tooLong")
        return Rendered((example,) if example.trained else (), len(example.ids), "" if example.trained else "masked")

    def _last_answer(self, row: Row) -> Example:
        """The conversation, in which only the last answer counts."""
        if self._template is None:
            ids, prompt = self._concatenated(row)
            return Example(ids, ((prompt, len(ids)),))
        self._template.check(row)
        return self._answer(row, len(row.turns) - 1, self._template)

    def _plain(self, row: Row) -> Rendered:
        """A prompt followed by its completion, without a template. Raises StageFailure for any other row."""
        ids, prompt = self._concatenated(row)
        return self._text(ids) if self._pretrains else self._one(ids, 0 if self._all_counts else prompt)

    def _concatenated(self, row: Row) -> tuple[list[int], int]:
        """The tokens of a prompt and its completion, and the number of those of the prompt. Raises StageFailure."""
        extra = any(turn.extra for turn in row.turns)
        if row.completion is None or len(row.turns) > 2 or row.turns[0].role != "user" or row.tools or extra:
            raise StageFailure(
                StageReason.NO_CHAT_TEMPLATE,
                f"{row.where}: a conversation of {len(row.turns)} turns ({', '.join(t.role for t in row.turns[:8])}), "
                "but the model's tokenizer has no chat template to render it: use a base model that has one, put a "
                "chat_template.jinja into its folder, or use rows with one prompt and one completion",
            )
        prompt = self._encode(row.prompt)
        return [*prompt, *self._encode(row.completion, special=False), self._tokenizer.eos_token_id], len(prompt)

    def _whole(self, row: Row, template: ChatTemplate) -> Rendered:
        """The conversation as one text. Every token counts."""
        (ids,) = self._encode_rendered(template.text(row, len(row.turns), prompt=False))
        if row.answer is not None:
            ended = self._ended(ids, template)
            ids = ids if ended == ids[: len(ended)] else ended
        return self._text(ids) if self._pretrains else self._one(ids, 0)

    def _one(self, ids: list[int], masked: int) -> Rendered:
        if len(ids) > self.max_length:
            return Rendered((), len(ids), "tooLong")
        return Rendered((Example(ids, ((masked, len(ids)),)),), len(ids))

    def _answers(self, row: Row, template: ChatTemplate) -> Rendered:
        """All answers: in one example if each prompt starts with the tokens of the previous one, else in several."""
        examples: list[Example] = []
        longest, left_out = 0, False
        for position in _answered(row):
            example = self._answer(row, position, template)
            longest = max(longest, len(example.ids))
            if len(example.ids) > self.max_length:
                left_out = True
            elif examples and example.ids[: len(examples[-1].ids)] == examples[-1].ids:
                examples[-1] = Example(example.ids, examples[-1].spans + example.spans)
            else:
                examples.append(example)
        kept = tuple(example for example in examples if example.trained)
        if not kept:
            return Rendered((), longest, "tooLong" if left_out else "masked")
        ways = {"split": len(kept) > 1, "shortened": left_out}
        return Rendered(kept, longest, reshaped=tuple(way for way, done in ways.items() if done))

    def _answer(self, row: Row, position: int, template: ChatTemplate) -> Example:
        """One answer: the ids that serving sends for the messages before it, then those of the answer with its end."""
        before = template.text(row, position, prompt=True)
        whole = template.text(row, position + 1, prompt=False)
        if not whole.startswith(before):
            raise _not_prefix(row, before, whole)
        prompt, joined = self._encode_rendered(before, whole)
        start, seamless = len(prompt), joined[: len(prompt)] == prompt
        # If a token of the joined text crosses the border, the answer is tokenised alone, as in generation.
        tokens = joined[start:] if seamless else self._encode_rendered(whole[len(before) :])[0]
        answer = self._ended(tokens, template)
        end = start + len(answer) - 1
        if template.is_empty(tokens):  # text that is nothing but the token that ends it
            return Example([*prompt, *answer], ())
        if not (seamless and template.marks_answers):
            return Example([*prompt, *answer], ((start, end + 1),))
        marked = _spans(template.answers_marked(row, position + 1)[:end], start)
        return Example([*prompt, *answer], (*marked, (end, end + 1)) if marked else ())

    def _ended(self, answer: list[int], template: ChatTemplate) -> list[int]:
        """The answer up to the token that ends it. If it has none, one is added."""
        end = template.end_in(answer)
        if end is not None:
            ended = answer[: end + 1]
        elif template.follower is not None:
            ended = [*answer, template.follower]
        else:
            ended = [*template.trimmed(answer), self._tokenizer.eos_token_id]
        self.turn_ends[ended[-1]] += 1
        return ended

    def _encode(self, text: str, special: bool = True) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=special)["input_ids"])

    def _encode_rendered(self, *texts: str) -> list[list[int]]:
        """Encode rendered texts in the same way as serving: the template has already added the special tokens."""
        return list(self._tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def pieces(ids: list[int], size: int) -> list[Example]:
    """Split a text into examples of at most `size` tokens, in which each token but the first counts once.

    Neighbours share one token: the first target of a piece is predicted from the last token of the previous one.
    """
    starts = range(0, max(1, len(ids) - 1), size - 1)
    return [Example(ids[start : start + size], ((1, len(ids[start : start + size])),)) for start in starts]


def _not_prefix(row: Row, before: str, whole: str) -> StageFailure:
    same = next((at for at, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]), len(whole))
    return StageFailure(
        StageReason.TEMPLATE_NOT_PREFIX,
        f"{row.where}: the chat template renders the prompt differently once it has an answer ({before[same:][:60]!r} "
        f"becomes {whole[same:][:60]!r}), so training and serving would use different tokens: set in "
        "training.chatTemplate a template whose generation prompt is the start of an assistant message, or in "
        "training.chatTemplateKwargs values with which it is one",
    )


def _is_lone_prompt(row: Row) -> bool:
    """Whether the row is a prompt without an answer, which counts as a text."""
    return len(row.turns) == 1 and row.turns[0].role == "user" and not row.turns[0].extra and not row.tools


def _answered(row: Row) -> list[int]:
    """Positions of the assistant messages that are answers. A greeting before the first question is not one."""
    first = next((at for at, turn in enumerate(row.turns) if turn.role in ("user", "tool")), len(row.turns))
    return [at for at, turn in enumerate(row.turns) if turn.role == "assistant" and at > first]


def _spans(marked: Sequence[int], start: int) -> tuple[Span, ...]:
    """The runs of ones, from `start` on."""
    groups = groupby(range(start, len(marked)), key=lambda at: bool(marked[at]))
    runs = [list(positions) for counts, positions in groups if counts]
    return tuple((run[0], run[-1] + 1) for run in runs)

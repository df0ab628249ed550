"""From a row to token ids and to what of them counts in the loss.

What is trained on is what will be served: an answer follows the very tokens that the server sends for the conversation
before it. A conversation whose answers all do so in one text is one example, and each answer counts. Where the template
renders a turn otherwise once it is answered further (Qwen3 drops earlier reasoning, gpt-oss ends the last turn
otherwise), the next answer begins another example.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.prepare.template import ChatTemplate

Span = tuple[int, int]  # positions of tokens that count: from the first, up to the second


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids, and the ascending spans of those that count in the loss."""

    ids: list[int]
    spans: tuple[Span, ...]

    @property
    def labels(self) -> list[int]:
        """Ids, or IGNORED. The first token is never predicted, so it never counts."""
        labels = [IGNORED] * len(self.ids)
        for start, end in self._counted():
            labels[start:end] = self.ids[start:end]
        return labels

    @property
    def trained(self) -> int:
        """How many tokens count in the loss."""
        return sum(end - start for start, end in self._counted())

    def _counted(self) -> list[Span]:
        return [(max(1, start), end) for start, end in self.spans if end > max(1, start)]


@dataclass(frozen=True, slots=True)
class Rendered:
    """What became of a row.

    Without examples `dropped` says why: `masked`, nothing counts in the loss, or `tooLong`. `reshaped` says how it is
    trained on otherwise than as it came: `pieces`, `split`, `shortened`. `tokens`: the longest it would have been.
    """

    examples: tuple[Example, ...]
    tokens: int
    dropped: Literal["", "masked", "tooLong"] = ""
    reshaped: tuple[str, ...] = ()


class Renderer:
    """Renders rows for one tokenizer, as serving renders them: the prompt's tokens never depend on the answer's."""

    def __init__(self, tokenizer: Any, training: TrainingSpec, context: int | None) -> None:
        """`context`: tokens that the model's positions reach, None for any number."""
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer) if tokenizer.chat_template else None
        self._pretrains = training.method == "pretrain"
        self._all_counts = self._pretrains or training.loss_on == "all"
        self.context = context
        self.max_length = min(training.max_length, context or training.max_length)
        self.turn_ends: Counter[int] = Counter()  # tokens that ended an answer so far

    def render(self, row: Row) -> Rendered:
        """The examples of a row, none longer than the maximum. An answer is never cut. Raises StageFailure."""
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

    def _plain(self, row: Row) -> Rendered:
        """A prompt and its completion, one after the other. Raises StageFailure for anything more."""
        extra = any(turn.extra for turn in row.turns)
        if row.completion is None or len(row.turns) > 2 or row.turns[0].role != "user" or row.tools or extra:
            raise StageFailure(
                StageReason.NO_CHAT_TEMPLATE,
                f"{row.where}: a conversation of {len(row.turns)} turns ({', '.join(t.role for t in row.turns[:8])}), "
                "but the model's tokenizer has no chat template to render it: take a base model that has one, put a "
                "chat_template.jinja into its folder, or give rows of one prompt and one completion",
            )
        prompt = self._encode(row.prompt)
        ids = [*prompt, *self._encode(row.completion, special=False), self._tokenizer.eos_token_id]
        return self._text(ids) if self._pretrains else self._one(ids, 0 if self._all_counts else len(prompt))

    def _whole(self, row: Row, template: ChatTemplate) -> Rendered:
        """The conversation as one text of which every token counts."""
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
        """Each answer counts: in one example where each prompt begins with all that was before, else in several."""
        examples: list[Example] = []
        longest, left_out = 0, False
        for position in _answered(row):
            found = self._answer(row, position, template)
            longest = max(longest, len(found.ids))
            if len(found.ids) > self.max_length:
                left_out = True
            elif examples and found.ids[: len(examples[-1].ids)] == examples[-1].ids:
                examples[-1] = Example(found.ids, examples[-1].spans + found.spans)
            else:
                examples.append(found)
        kept = tuple(example for example in examples if example.trained)
        if not kept:
            return Rendered((), longest, "tooLong" if left_out else "masked")
        ways = {"split": len(kept) > 1, "shortened": left_out}
        return Rendered(kept, longest, reshaped=tuple(way for way, done in ways.items() if done))

    def _answer(self, row: Row, position: int, template: ChatTemplate) -> Example:
        """One answer alone: the ids that serving sends for the turns before it, and the answer's, with its end."""
        before = template.text(row, position, prompt=True)
        whole = template.text(row, position + 1, prompt=False)
        if not whole.startswith(before):
            raise _not_prefix(row, before, whole)
        prompt, joined = self._encode_rendered(before, whole)
        start, seamless = len(prompt), joined[: len(prompt)] == prompt
        # Where the border is within a token of the joined text, the answer is tokenised alone, as it is generated.
        tokens = joined[start:] if seamless else self._encode_rendered(whole[len(before) :])[0]
        answer = self._ended(tokens, template)
        end = start + len(answer) - 1
        if not (seamless and template.marks_answers):
            return Example([*prompt, *answer], ((start, end + 1),))
        marked = _spans(template.answers_marked(row, position + 1)[:end], start)
        return Example([*prompt, *answer], (*marked, (end, end + 1)) if marked else ())

    def _ended(self, answer: list[int], template: ChatTemplate) -> list[int]:
        """An answer up to the token that ends it, given one if it has none."""
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
        """As serving encodes what a template gives: the template has written the special tokens itself."""
        return list(self._tokenizer(list(texts), add_special_tokens=False)["input_ids"])


def pieces(ids: list[int], size: int) -> list[Example]:
    """A text as examples of at most `size` tokens in which each token but the first counts once.

    Neighbours share one token: the last of a piece is also what the next one's first target is predicted from.
    """
    starts = range(0, max(1, len(ids) - 1), size - 1)
    return [Example(ids[start : start + size], ((1, len(ids[start : start + size])),)) for start in starts]


def _not_prefix(row: Row, before: str, whole: str) -> StageFailure:
    same = next((at for at, pair in enumerate(zip(before, whole, strict=False)) if pair[0] != pair[1]), len(whole))
    return StageFailure(
        StageReason.TEMPLATE_NOT_PREFIX,
        f"{row.where}: the chat template renders the prompt differently once it is answered ({before[same:][:60]!r} "
        f"becomes {whole[same:][:60]!r}), so the model would be trained after other tokens than it is served: use a "
        "template whose generation prompt is the start of an answered turn",
    )


def _is_lone_prompt(row: Row) -> bool:
    """A prompt without an answer is a text."""
    return len(row.turns) == 1 and row.turns[0].role == "user" and not row.turns[0].extra and not row.tools


def _answered(row: Row) -> list[int]:
    """Positions of the assistant's turns that answer somebody: a greeting at the start answers nobody."""
    asked = next((at for at, turn in enumerate(row.turns) if turn.role in ("user", "tool")), len(row.turns))
    return [at for at, turn in enumerate(row.turns) if turn.role == "assistant" and at > asked]


def _spans(marked: Sequence[int], start: int) -> tuple[Span, ...]:
    """The runs of ones from `start` on."""
    runs = groupby(range(start, len(marked)), key=lambda at: bool(marked[at]))
    found = [list(positions) for counts, positions in runs if counts]
    return tuple((run[0], run[-1] + 1) for run in found)

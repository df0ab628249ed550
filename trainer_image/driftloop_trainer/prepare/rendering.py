"""Renders all rows of a job, and counts those that training can't use."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.render import Example, Renderer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Rendering:
    """The rows for training with their examples, and the numbers of dropped and reshaped rows by reason.

    `places`: for each example where users find its row. `unread`: the number of rows per message field that nothing
    reads. `first`: by reason the place of the first row that was dropped for it.
    """

    rows: list[Row]
    examples: list[Example]
    places: list[str]
    dropped: Counter[str]
    reshaped: Counter[str]
    unread: Counter[str]
    first: dict[str, str]


def render(rows: Iterable[Row], renderer: Renderer) -> Rendering:
    """Render all rows. Raises StageFailure if there are no examples, or a row of a source can't be rendered."""
    result, tokens = _rendered(rows, renderer)
    if not result.rows and tokens:
        raise StageFailure(StageReason.ALL_ROWS_TOO_LONG, _why_too_long(renderer, tokens, result))
    if not result.rows:
        raise StageFailure(StageReason.ALL_ROWS_MASKED, _why_masked(result))
    return result


def render_validation(rows: list[Row], renderer: Renderer) -> Rendering:
    """Render the rows that are set aside. Raises StageFailure if there are rows but no examples."""
    result, _ = _rendered(rows, renderer)
    if rows and not result.rows:
        dropped = ", ".join(f"{reason} {count}" for reason, count in result.dropped.items())
        raise StageFailure(
            StageReason.EMPTY_DATA,
            f"none of the {len(rows)} rows that training.validation sets aside can be used ({dropped}): raise its "
            "percent or maxRows, or remove validation",
        )
    return result


def _rendered(rows: Iterable[Row], renderer: Renderer) -> tuple[Rendering, list[int]]:
    """The rows as examples, and the tokens of those that are too long."""
    result = Rendering([], [], [], Counter(), Counter(), Counter(), {})
    tokens: list[int] = []
    for row in rows:
        try:
            rendered = renderer.render(row)
        except StageFailure as failure:
            if row.part != "feedback":  # users can't remove a conversation from the feedback
                raise
            log.warning("%s: %s", row.where, failure.reason)  # the message may quote the client
            result.dropped["feedback.notRendered"] += 1
            continue
        if rendered.dropped:
            if rendered.dropped not in result.first:
                result.first[rendered.dropped] = row.where
                log.info("the first row that is dropped as %s is %s", rendered.dropped, row.where)
            result.dropped[rendered.dropped] += 1
            tokens += [rendered.tokens] if rendered.dropped == "tooLong" else []
        else:
            result.rows.append(row)
            result.examples.extend(example.compact() for example in rendered.examples)
            result.places.extend([row.where] * len(rendered.examples))
            result.reshaped.update(rendered.reshaped)
            result.reshaped["unreadFields"] += bool(row.unread)
            result.unread.update(row.unread)
    return result, tokens


def _why_too_long(renderer: Renderer, tokens: list[int], result: Rendering) -> str:
    masked = result.dropped["masked"]
    others = f"; {masked} more have no token that counts in the loss" if masked else ""
    needed = min(max(tokens), renderer.context or max(tokens))
    advice = f"set training.maxLength to {needed}, enough for {sum(size <= needed for size in tokens)} of them"
    if needed < min(tokens):
        advice = (
            f"the model's own context is {renderer.context}: shorten the rows, or use a model with a longer context"
        )
    return (
        f"none of {len(tokens)} rows fits into {renderer.max_length} tokens with its answer, and an answer is never "
        f"cut: they have {min(tokens)} to {max(tokens)} tokens, such as {result.first['tooLong']}{others}; {advice}"
    )


def _why_masked(result: Rendering) -> str:
    if equal := result.dropped["equalAnswers"]:
        return (
            f"all {equal} pairs have the same tokens as chosen and rejected answers, such as "
            f"{result.first['equalAnswers']}: correct data.sources"
        )
    return (
        f"none of {result.dropped['masked']} rows has a token that counts in the loss, such as "
        f"{result.first['masked']}: with method sft and lossOn completion each row needs a completion"
    )

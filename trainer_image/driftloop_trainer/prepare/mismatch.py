"""The questions of labelled answers, each with the answer of another row, for kto. Pure.

How much likelier such answers become is how far the model has moved as a whole: an estimate of its KL divergence from
the first weights (Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, section 4.1).
"""

from collections import defaultdict
from collections.abc import Sequence

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.render import Example


def with_mismatches(rows: Sequence[Row], examples: Sequence[Example], max_length: int) -> list[Example]:
    """Each example, followed by its mismatched one of at most `max_length` tokens. Each row has one example.

    Raises StageFailure if all rows have the same question.
    """
    others = partners([row.key for row in rows])
    return [
        text
        for example, other in zip(examples, others, strict=True)
        for text in (example, mismatched(example, examples[other], max_length).compact())
    ]


def partners(keys: Sequence[str]) -> list[int]:
    """For each row the number of the one whose answer it gets, by the `keys` of their questions.

    Questions are in the order of their hashes, and the next question has the answer: by chance, so that files in the
    order of their answers do no harm, and the same in every run. Raises StageFailure.
    """
    by_key: dict[str, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        by_key[key].append(number)
    if len(by_key) < 2:
        raise StageFailure(
            StageReason.EMPTY_DATA,
            "all rows have the same question: training.method kto compares a question's answer with those of other "
            "questions. Add rows to data.sources",
        )
    groups = [by_key[key] for key in sorted(by_key)]
    others = [0] * len(keys)
    for group, following in zip(groups, [*groups[1:], groups[0]], strict=True):
        for place, number in enumerate(group):
            others[number] = following[place % len(following)]
    return others


def mismatched(example: Example, other: Example, max_length: int) -> Example:
    """The prompt of `example` and the answer of `other`, which is cut to the length, as nothing is trained on it."""
    border, first = example.spans[0][0], other.spans[0][0]
    ids = [*example.ids[:border], *other.ids[first:]][:max_length]
    spans = ((start - first + border, end - first + border) for start, end in other.spans)
    return Example(ids, tuple((start, min(end, len(ids))) for start, end in spans if start < len(ids)))

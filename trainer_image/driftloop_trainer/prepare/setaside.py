"""Sets training rows aside, on which the loss is computed while training. Pure."""

from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

from driftloop.api.finetunejob import Validation
from driftloop.contract.reasons import StageReason
from driftloop.contract.text import row_key
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row
from driftloop_trainer.prepare.divide import fenced


def set_aside(rows: Sequence[Row], salt: str, settings: Validation, threshold: float) -> tuple[list[Row], list[Row]]:
    """The training rows that are left, and those for validation, without the near-duplicates of these.

    The held-out rows are not used for it: a gate may not ask what has chosen the weights. The rows are chosen by their
    hash alone, as the held-out rows are. So they are the same rows in the next job of the ancestry, and rows with the
    same question stay together. Raises StageFailure if either side is empty.
    """
    sizes = Counter(row.key for row in rows)
    places = {key: place(salt, key) for key in sizes}
    share = sorted((key for key in sizes if places[key] * 100 < settings.percent), key=lambda key: places[key])
    counts = accumulate(sizes[key] for key in share)
    chosen = {key for key, count in zip(share, counts, strict=True) if count <= settings.max_rows}
    validation = [row for row in rows if row.key in chosen]
    train = fenced([row for row in rows if row.key not in chosen], validation, threshold)
    _check(rows, train, validation, settings)
    return train, validation


def place(salt: str, key: str) -> float:
    """A number from 0 to 1, independent of the one by which rows are held out: a row with a low number is set aside."""
    return int(row_key(f"validation of {salt}: {key}")[:16], 16) / 2**64


def _check(rows: Sequence[Row], train: Sequence[Row], validation: Sequence[Row], settings: Validation) -> None:
    if not validation:
        problem = (
            f"training.validation sets no row aside: {settings.percent} percent of the {len(rows)} training rows, at "
            f"most {settings.max_rows}: raise its percent or maxRows, or remove validation"
        )
    elif not train:
        problem = (
            f"training.validation sets {len(validation)} of {len(rows)} training rows aside, and the others are too "
            "similar to them: lower its percent, or add rows"
        )
    else:
        return
    raise StageFailure(StageReason.EMPTY_DATA, problem)

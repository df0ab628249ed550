"""Numbers of Prometheus' making: what a query or a scrape gives."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One number with its labels; a scrape puts the metric's name into `__name__`, as Prometheus does."""

    labels: dict[str, str]
    value: float


class MetricsUnavailable(Exception):
    """No answer: which is not the same as an answer without samples, and neither of them is good news."""


def finite(samples: list[Sample]) -> list[Sample]:
    """Without NaN and infinities, which are no numbers to decide on. For gauges, whose absence is noticed."""
    return [sample for sample in samples if math.isfinite(sample.value)]

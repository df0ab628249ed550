"""Samples from a Prometheus query or from a scrape."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """One value with its labels. `__name__` holds the metric's name, as in Prometheus."""

    labels: dict[str, str]
    value: float


class MetricsUnavailable(Exception):
    """The metrics could not be read. This is not the same as an answer without samples."""


def finite(samples: list[Sample]) -> list[Sample]:
    """The samples without NaN and infinities. Only for gauges: a missing gauge is noticed, a missing counter is not."""
    return [sample for sample in samples if math.isfinite(sample.value)]

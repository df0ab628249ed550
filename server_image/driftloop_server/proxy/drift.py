"""Counts requests per bin of the reference profile. Only these counts leave the pod, not the text.

A text or user that sends far more than its share is not counted beyond it (`contract/shares.py`).
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import Counter, Gauge

from driftloop.contract.names import NOVELTY, Metric
from driftloop.contract.shares import Shares
from driftloop.contract.textstats import PROFILE, Profile, bin_label, load_document, parse_profile
from driftloop.podlib.novelty import Novelty, parse_novelty
from driftloop_server.proxy.metrics import LABELS, ProxyMetrics
from driftloop_server.proxy.topics import Topics

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """What is normal for a model: the bins of each signal, and the reference's share of rows in them."""

    profile: Profile
    novelty: Novelty | None = None

    @classmethod
    def of(cls, document: Any) -> "Reference":
        """The reference of the document of `profile_of`. Raises ValueError."""
        return cls(parse_profile(document), parse_novelty(document))

    def bins(self, text: str) -> Mapping[str, int]:
        """The bin of a text per signal."""
        return self.profile.bins(text) | ({NOVELTY: self.novelty.bin(text)} if self.novelty else {})

    def masses(self) -> Mapping[str, Sequence[float]]:
        return self.profile.masses() | ({NOVELTY: list(self.novelty.shares)} if self.novelty else {})


def read_reference(folder: Path) -> Reference | None:
    """The model's reference. A model without a readable profile is served, but not watched for drift."""
    try:
        document = load_document(folder / PROFILE)
        reference = None if document is None else Reference.of(document)
    except ValueError as error:
        log.error("no drift counters: %s", error)
        return None
    if reference is None:
        log.warning("no drift counters: the model folder has no %s", PROFILE)
    return reference


class DriftCounters:
    """Counts texts into bins. Without a reference it exports nothing, as a count of 0 would look like `no drift`."""

    def __init__(self, reference: Reference | None, metrics: ProxyMetrics, topics: Topics | None = None) -> None:
        self._reference, self._shares, self._topics = reference, Shares(), topics
        if reference is None:
            return
        labels, registry = [*LABELS, "signal", "bin"], metrics.registry
        self._counter = Counter(Metric.DRIFT_BIN, "Requests in each bin of a signal.", labels, registry=registry)
        masses = Gauge(Metric.DRIFT_REFERENCE, "Share of the reference in each bin.", labels, registry=registry)
        rows = Gauge(Metric.DRIFT_REFERENCE_ROWS, "Rows in the reference.", LABELS, registry=registry)
        rows.labels(*metrics.constant).set(reference.profile.rows)
        self._constant = metrics.constant
        for signal, shares in reference.masses().items():
            for index, share in enumerate(shares):
                masses.labels(*self._constant, signal, bin_label(index)).set(share)
                self._counter.labels(*self._constant, signal, bin_label(index))

    def count(self, text: str, user: str | None = None) -> None:
        if self._reference is None or not self._shares.admits(text, user):
            return
        for signal, index in self._reference.bins(text).items():
            self._counter.labels(*self._constant, signal, bin_label(index)).inc()
        if self._topics:
            self._topics.count(text, user)

"""Counts requests per bin of the reference profile. Only these counts leave the pod, not the text.

A text or user that sends far more than its share is not counted beyond it (`contract/shares.py`).
"""

import logging
from pathlib import Path

from prometheus_client import Counter, Gauge

from driftloop.contract.names import Metric
from driftloop.contract.shares import Shares
from driftloop.contract.textstats import PROFILE, Profile, bin_label, load_profile
from driftloop_server.proxy.metrics import LABELS, ProxyMetrics
from driftloop_server.proxy.topics import Topics

log = logging.getLogger(__name__)


def read_profile(folder: Path) -> Profile | None:
    """The model's profile. A model without a readable profile is served, but not watched for drift."""
    try:
        profile = load_profile(folder / PROFILE)
    except ValueError as error:
        log.error("no drift counters: %s", error)
        return None
    if profile is None:
        log.warning("no drift counters: the model folder has no %s", PROFILE)
    return profile


class DriftCounters:
    """Counts texts into bins. Without a profile it exports nothing, as a count of 0 would look like `no drift`."""

    def __init__(self, profile: Profile | None, metrics: ProxyMetrics, topics: Topics | None = None) -> None:
        self._profile, self._shares, self._topics = profile, Shares(), topics
        if profile is None:
            return
        labels, registry = [*LABELS, "signal", "bin"], metrics.registry
        self._counter = Counter(Metric.DRIFT_BIN, "Requests in each bin of a signal.", labels, registry=registry)
        masses = Gauge(Metric.DRIFT_REFERENCE, "Share of the reference in each bin.", labels, registry=registry)
        rows = Gauge(Metric.DRIFT_REFERENCE_ROWS, "Rows in the reference.", LABELS, registry=registry)
        rows.labels(*metrics.constant).set(profile.rows)
        self._constant = metrics.constant
        for signal, shares in profile.masses().items():
            for index, share in enumerate(shares):
                masses.labels(*self._constant, signal, bin_label(index)).set(share)
                self._counter.labels(*self._constant, signal, bin_label(index))

    def count(self, text: str, user: str | None = None) -> None:
        if self._profile is None or not self._shares.admits(text, user):
            return
        for signal, index in self._profile.bins(text).items():
            self._counter.labels(*self._constant, signal, bin_label(index)).inc()
        if self._topics:
            self._topics.count(text, user)

"""What Prometheus counted of a service: fixed queries, no user's PromQL.

`increase()` won't do: it extrapolates to the edges of its window, needs two samples (a series born in the window counts
from its second one), and two windows side by side don't add up to one. Here a window's increment is the difference of
two readings of the raw counter, each series by itself:

- the reading at a time is the last sample before it, at most `LOOKBACK` old; one window ends where the next begins,
  so each increment is counted once;
- a series without a reading at the start was born in the window and counts from 0, where the proxy starts its series;
- a reading below the start's is a counter that was reset: it counts from 0, and what it counted between the start
  and the reset is lost;
- a pod that died in the window is read at its last sample; what it counted after its last scrape is lost.

So requests can be missed at a pod's end, and none is counted twice or invented. A pod that could not be scraped for
longer than LOOKBACK while others could would count anew from its start: one look, which the detector bounds.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from driftloop.contract.names import GENERATING, SIGNALS, Metric
from driftloop.controller.drift.detector import FEEDBACK, Counters
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample
from driftloop.controller.vocabulary.world import World

LOOKBACK = timedelta(hours=1)
SETTLE = timedelta(seconds=5)  # samples are appended when a scrape ends, with the time at which it began
MAX_BINS = 32

_BAD_RATINGS = ("negative", "correction")
_HISTOGRAMS = (Metric.LATENCY, Metric.TIME_PER_OUTPUT)
_LEFT = "499"  # a client that went
_NO_REFUSAL = ("429", _LEFT)  # 429 is a failure


Buckets = Mapping[float, float]  # of a histogram, cumulative: upper bound in seconds -> observations


@dataclass(frozen=True)
class Arm:
    """What one arm of a canary did since both were ready, asked for answers of the model."""

    requests: float
    failures: float  # of them, answered with 5xx or 429
    refused: float = 0.0  # of them, answered with another 4xx: the client's mistakes, or a model that takes less
    left: float = 0.0  # of them, given up by the client before the answer was whole
    latency: Buckets = field(default_factory=dict)  # seconds an answer
    token_latency: Buckets = field(default_factory=dict)  # seconds per output token, of answers that have some
    ratings: float = 0.0
    negative: float = 0.0  # of them


@dataclass(frozen=True)
class Arms:
    """Both arms over the same time."""

    stable: Arm
    candidate: Arm


async def read_batch(
    world: World, namespace: str, service: str, model_version: str, since: datetime, until: datetime
) -> Counters | None:
    """What was counted of one version's requests from `since` until `until`, and its profile's masses.

    None when Prometheus can't say, or has no sample of the version in the window: unknown is not zero.
    Give an `until` at least SETTLE ago. Both ends are cut to whole seconds, as the status holds them: a window that
    ended within a second would be read again from the second's beginning, and its requests counted twice.
    """
    since, until = since.replace(microsecond=0), until.replace(microsecond=0)
    of = {"namespace": namespace, "inference_service": service, "model_version": model_version}
    names = (Metric.DRIFT_BIN, Metric.FEEDBACK, Metric.DRIFT_REFERENCE, Metric.DRIFT_REFERENCE_ROWS)
    window = await _read(world, names, of, since, until)
    if window is None or not window.ends:
        return None
    increments = window.increments()
    bins: dict[str, Sequence[float]] = {}
    for signal in SIGNALS:
        counted = _by_bin((sample for sample in increments if sample.labels.get("signal") == signal), sum_up=True)
        if counted:
            bins[signal] = counted
    good, bad = _ratings(sample for sample in increments if "rating" in sample.labels)
    bins[FEEDBACK] = (good, bad)
    gauges = [sample for sample in window.ends if sample.labels.get("__name__") == Metric.DRIFT_REFERENCE]
    rows = [s.value for s in window.ends if s.labels.get("__name__") == Metric.DRIFT_REFERENCE_ROWS]
    reference = {s: _by_bin((g for g in gauges if g.labels.get("signal") == s), sum_up=False) for s in SIGNALS}
    return Counters(
        until=until,
        bins=bins,
        reference={signal: masses for signal, masses in reference.items() if masses},
        reference_rows=max(rows, default=0.0),
    )


async def eligible_samples(world: World, namespace: str, service: str, since: datetime) -> int | None:
    """Corrections that a training may use, taken since then; None when Prometheus can't say."""
    of = {"namespace": namespace, "inference_service": service, "side": "train"}
    window = await _read(world, (Metric.FEEDBACK_ELIGIBLE,), of, since, world.now() - SETTLE)
    if window is None or not window.ends:
        return None
    return int(sum(sample.value for sample in window.increments()))


async def arms(
    world: World, namespace: str, service: str, revisions: Iterable[str], since: datetime
) -> dict[str, Arm] | None:
    """What each revision did since then; None when Prometheus can't say. A revision without samples did nothing."""
    of = {"namespace": namespace, "inference_service": service}
    names = (Metric.REQUESTS, Metric.FEEDBACK, *(f"{name}_bucket" for name in _HISTOGRAMS))
    window = await _read(world, names, of, since, world.now() - SETTLE)
    if window is None:
        return None
    increments = window.increments()
    return {name: _arm([s for s in increments if s.labels.get("revision") == name]) for name in revisions}


class _Window:
    """Readings of the same series at the two ends of a window."""

    def __init__(self, starts: Sequence[Sample], ends: Sequence[Sample]) -> None:
        self.starts = {_identity(sample): sample.value for sample in starts}
        self.ends = ends

    def increments(self) -> list[Sample]:
        """Of every counter that was seen in the window."""
        counters = [s for s in self.ends if s.labels.get("__name__", "").removesuffix("_bucket") not in _GAUGES]
        return [Sample(sample.labels, self._increment(sample)) for sample in counters]

    def _increment(self, end: Sample) -> float:
        start = self.starts.get(_identity(end), 0.0)
        return end.value - start if end.value >= start else end.value


_GAUGES = (Metric.DRIFT_REFERENCE, Metric.DRIFT_REFERENCE_ROWS)


def selector(names: Sequence[str], labels: Mapping[str, str]) -> str:
    """A PromQL selector of metrics by name and exact labels."""
    matchers = [f'__name__=~"{"|".join(names)}"', *(f'{key}="{_escaped(value)}"' for key, value in labels.items())]
    return "{" + ",".join(matchers) + "}"


async def _read(
    world: World, names: Sequence[str], labels: Mapping[str, str], since: datetime, until: datetime
) -> _Window | None:
    seconds = math.ceil((until - since).total_seconds())
    if seconds <= 0:
        return None
    chosen = selector(names, labels)
    try:
        ends = await world.metrics.query(f"last_over_time({chosen}[{seconds}s])", until)
        starts = await world.metrics.query(f"last_over_time({chosen}[{int(LOOKBACK.total_seconds())}s])", since)
    except MetricsUnavailable:
        return None
    return _Window(starts, ends)


def _arm(increments: Sequence[Sample]) -> Arm:
    asked = [sample for sample in increments if sample.labels.get("route") in GENERATING]
    codes: defaultdict[str, float] = defaultdict(float)
    for sample in asked:
        if "code" in sample.labels:
            codes[sample.labels["code"]] += sample.value
    good, bad = _ratings(sample for sample in increments if "rating" in sample.labels)
    return Arm(
        requests=sum(codes.values()),
        failures=sum(count for code, count in codes.items() if code.startswith("5") or code == "429"),
        refused=sum(count for code, count in codes.items() if code.startswith("4") and code not in _NO_REFUSAL),
        left=codes[_LEFT],
        latency=_buckets(asked, Metric.LATENCY),
        token_latency=_buckets(asked, Metric.TIME_PER_OUTPUT),
        ratings=good + bad,
        negative=bad,
    )


def _buckets(samples: Iterable[Sample], histogram: str) -> dict[float, float]:
    found: defaultdict[float, float] = defaultdict(float)
    for sample in samples:
        if sample.labels.get("__name__") == f"{histogram}_bucket":
            found[float(sample.labels["le"])] += sample.value
    return dict(sorted(found.items()))


def _ratings(samples: Iterable[Sample]) -> tuple[float, float]:
    """(good, bad): a correction says that the answer was wrong."""
    good = bad = 0.0
    for sample in samples:
        if sample.labels["rating"] in _BAD_RATINGS:
            bad += sample.value
        else:
            good += sample.value
    return good, bad


def _by_bin(samples: Iterable[Sample], *, sum_up: bool) -> tuple[float, ...]:
    """Values in the order of their bins, over all pods added up (counters) or alike (gauges); () with a bin missing."""
    found: dict[int, float] = {}
    for sample in samples:
        label = sample.labels.get("bin", "")
        if label.isdecimal() and int(label) < MAX_BINS:
            index = int(label)
            found[index] = found.get(index, 0.0) + sample.value if sum_up else sample.value
    return tuple(found[i] for i in range(len(found))) if sorted(found) == list(range(len(found))) else ()


def _identity(sample: Sample) -> frozenset[tuple[str, str]]:
    return frozenset(sample.labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

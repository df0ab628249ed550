"""Counters of a service in Prometheus. The queries are fixed: users can't set PromQL.

`increase()` can't be used. It extrapolates to the edges of its window, it ignores the first sample of a new series, and
the results of two adjacent windows don't add up to the result of both. See
https://github.com/prometheus/prometheus/issues/12967 and https://github.com/prometheus/prometheus/issues/3886.

Here the increment of a window is the difference of two readings of the raw counter, for each series:

- the reading at a time is the last sample before it, at most `LOOKBACK` old. A window ends where the next one starts,
  so each increment is counted once;
- a series without a reading at the start of the window is new and counts from 0, where the proxy starts its series;
- a reading that is lower than at the start means that the counter was reset. It counts from 0, and increments between
  the start of the window and the reset are lost;
- a pod that ended in the window is read at its last sample, and increments after its last scrape are lost.

So requests can be missed when a pod ends, but none is counted twice or invented. One exception: a pod that could not be
scraped for longer than LOOKBACK, while others could, counts from its start again. That affects a single reading, whose
effect the detector limits.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import pairwise

from driftloop.contract.names import ANSWER_LENGTH, GENERATING, TEXT_SIGNALS, UNANSWERED, Metric
from driftloop.controller.drift.detector import FEEDBACK, Counters
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample
from driftloop.controller.vocabulary.world import Queries, World

LOOKBACK = timedelta(hours=1)
SETTLE = timedelta(seconds=5)  # Prometheus stores samples when a scrape ends, with the time when it started
MAX_BINS = 32

_BAD_RATINGS = ("negative", "correction")
_HISTOGRAMS = (Metric.LATENCY, Metric.TIME_PER_OUTPUT, Metric.FIRST_TOKEN, Metric.ANSWER_TOKENS)
_LEFT = "499"  # the client left before the answer was complete
_NO_ANSWER = ("refused", "empty")  # of ENDINGS
# Tokens of an answer at which the bins of its drift signal end: up to 8, and then two in each doubling.
LENGTHS = (1, 2, 3, 4, 6, 8, *(size for power in range(3, 13) for size in (3 * 2**power // 2, 2 * 2**power)))
_NO_REFUSAL = ("429", _LEFT)  # 4xx codes that are not refusals; 429 is a failure


Buckets = Mapping[float, float]  # cumulative buckets of a histogram: upper bound in seconds -> observations


@dataclass(frozen=True)
class Answers:
    """Complete answers of one arm, of which no client has too large a share (the proxy's `weights.py`)."""

    endings: Mapping[str, float] = field(default_factory=dict)  # answers by their ending, one of ENDINGS
    tokens: Buckets = field(default_factory=dict)  # output tokens per answer
    first_token: Buckets = field(default_factory=dict)  # seconds until the first token of a stream

    @property
    def total(self) -> float:
        return sum(self.endings.values())


@dataclass(frozen=True)
class Arm:
    """Generation requests and ratings of one arm of a canary since both arms were ready."""

    requests: float
    failures: float  # requests answered with 5xx or 429
    refused: float = 0.0  # requests answered with another 4xx: errors of the client, or a model that accepts less
    left: float = 0.0  # requests that the client gave up before the answer was complete
    latency: Buckets = field(default_factory=dict)  # seconds per answer
    token_latency: Buckets = field(default_factory=dict)  # seconds per output token, of longer answers
    ratings: float = 0.0  # no user has too large a share of them, if the pods count users
    negative: float = 0.0  # negative ratings and corrections
    answers: Answers | None = None  # None: its pods do not count endings, as those of earlier releases


@dataclass(frozen=True)
class Pairs:
    """Pairs of answers to the same requests, by who is worse."""

    candidate: float
    stable: float
    neither: float

    @property
    def total(self) -> float:
        return self.candidate + self.stable + self.neither

    @property
    def difference(self) -> float:
        """The share of pairs in which the candidate is worse, minus that in which stable is. Needs a pair."""
        return (self.candidate - self.stable) / self.total


@dataclass(frozen=True)
class Arms:
    """Both arms over the same time."""

    stable: Arm
    candidate: Arm


@dataclass(frozen=True)
class ShadowCounts:
    """Pairs of answers of stable and a candidate in the shadow."""

    outcomes: Mapping[str, Mapping[str, float]]  # number of pairs by measure and outcome
    dropped: Mapping[str, float] = field(default_factory=dict)  # copies without a pair, by reason

    def measure(self, name: str) -> Pairs:
        """The pairs of a measure by who is worse."""
        pairs = self.outcomes.get(name, {})
        return Pairs(*(pairs.get(outcome, 0.0) for outcome in ("candidate", "stable", "neither")))

    @property
    def equal(self) -> tuple[float, float]:
        """Equal and different greedy answers."""
        answers = self.outcomes.get("answer", {})
        return answers.get("equal", 0.0), answers.get("different", 0.0)

    @property
    def dropped_total(self) -> float:
        return sum(self.dropped.values())


async def shadow_counts(
    world: World, namespace: str, service: str, pair: tuple[str, str], since: datetime
) -> ShadowCounts | None:
    """Pairs that the pods of `pair`'s first revision, stable, have counted about the second since `since`.

    None if Prometheus fails.
    """
    stable, candidate = pair
    labels = {"namespace": namespace, "inference_service": service, "revision": stable, "candidate": candidate}
    window = await _read(
        world.metrics, (Metric.SHADOW_PAIRS, Metric.SHADOW_DROPPED), labels, since, world.now() - SETTLE
    )
    if window is None:
        return None
    outcomes: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    dropped: defaultdict[str, float] = defaultdict(float)
    for sample in window.increments():
        if "reason" in sample.labels:
            dropped[sample.labels["reason"]] += sample.value
        else:
            outcomes[sample.labels.get("measure", "")][sample.labels.get("outcome", "")] += sample.value
    return ShadowCounts(outcomes, dropped)


async def read_batch(
    metrics: Queries, namespace: str, service: str, model_version: str, since: datetime, until: datetime
) -> Counters | None:
    """Counters of one version's requests from `since` until `until`, and the masses of its profile.

    None if Prometheus fails, or has no sample of the version in the window: unknown is not zero. `until` must be at
    least SETTLE ago. Both ends are cut to whole seconds, as in the status. Otherwise the next window would start at the
    whole second before this window's end, and requests in between would be counted twice.
    """
    since, until = since.replace(microsecond=0), until.replace(microsecond=0)
    labels = {"namespace": namespace, "inference_service": service, "model_version": model_version}
    names = (
        *(Metric.DRIFT_BIN, Metric.FEEDBACK, Metric.DRIFT_REFERENCE, Metric.DRIFT_REFERENCE_ROWS),
        *(Metric.ANSWERS, f"{Metric.ANSWER_TOKENS}_bucket"),
    )
    window = await _read(metrics, names, labels, since, until)
    if window is None or not window.ends:
        return None
    increments = window.increments()
    bins: dict[str, Sequence[float]] = {}
    for signal in TEXT_SIGNALS:
        counted = _by_bin((sample for sample in increments if sample.labels.get("signal") == signal), sum_up=True)
        if counted:
            bins[signal] = counted
    good, bad = _ratings(sample for sample in increments if "rating" in sample.labels)
    bins[FEEDBACK] = (good, bad)
    if answers := _answers([sample for sample in increments if sample.labels.get("route") in GENERATING]):
        bins |= {UNANSWERED: _unanswered(answers), ANSWER_LENGTH: _lengths(answers)}
    gauges = [sample for sample in window.ends if sample.labels.get("__name__") == Metric.DRIFT_REFERENCE]
    rows = [s.value for s in window.ends if s.labels.get("__name__") == Metric.DRIFT_REFERENCE_ROWS]
    reference = {s: _by_bin((g for g in gauges if g.labels.get("signal") == s), sum_up=False) for s in TEXT_SIGNALS}
    return Counters(
        until=until,
        bins=bins,
        reference={signal: masses for signal, masses in reference.items() if masses},
        reference_rows=max(rows, default=0.0),
    )


def _unanswered(answers: Answers) -> tuple[float, float]:
    bad = sum(answers.endings.get(ending, 0.0) for ending in _NO_ANSWER)
    return answers.total - bad, bad


def _lengths(answers: Answers) -> tuple[float, ...]:
    """The answers with up to so many tokens as LENGTHS has, and those with more."""
    up_to = [max((count for bound, count in answers.tokens.items() if bound <= end), default=0.0) for end in LENGTHS]
    every = max(answers.tokens.values(), default=0.0)
    return tuple(longer - shorter for shorter, longer in pairwise([0.0, *up_to, every]))


async def eligible_samples(world: World, namespace: str, service: str, since: datetime) -> int | None:
    """Number of corrections since `since` that training may use; None if Prometheus fails."""
    labels = {"namespace": namespace, "inference_service": service, "side": "train"}
    window = await _read(world.metrics, (Metric.FEEDBACK_ELIGIBLE,), labels, since, world.now() - SETTLE)
    if window is None or not window.ends:
        return None
    return int(sum(sample.value for sample in window.increments()))


async def arms(
    world: World, namespace: str, service: str, revisions: Iterable[str], since: datetime
) -> dict[str, Arm] | None:
    """Counters of each revision since `since`; None if Prometheus fails. A revision without samples has zeros."""
    labels = {"namespace": namespace, "inference_service": service}
    names = (
        Metric.REQUESTS,
        Metric.ANSWERS,
        Metric.FEEDBACK,
        Metric.RATED,
        *(f"{name}_bucket" for name in _HISTOGRAMS),
    )
    window = await _read(world.metrics, names, labels, since, world.now() - SETTLE)
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
        """The increment of every counter with a sample in the window."""
        counters = [s for s in self.ends if s.labels.get("__name__", "").removesuffix("_bucket") not in _GAUGES]
        return [Sample(sample.labels, self._increment(sample)) for sample in counters]

    def _increment(self, end: Sample) -> float:
        start = self.starts.get(_identity(end), 0.0)
        return end.value - start if end.value >= start else end.value


_GAUGES = (Metric.DRIFT_REFERENCE, Metric.DRIFT_REFERENCE_ROWS)


def selector(names: Sequence[str], labels: Mapping[str, str]) -> str:
    """A PromQL selector for metrics with one of `names` and exactly these label values."""
    matchers = [f'__name__=~"{"|".join(names)}"', *(f'{key}="{_escaped(value)}"' for key, value in labels.items())]
    return "{" + ",".join(matchers) + "}"


async def _read(
    metrics: Queries, names: Sequence[str], labels: Mapping[str, str], since: datetime, until: datetime
) -> _Window | None:
    seconds = math.ceil((until - since).total_seconds())
    if seconds <= 0:
        return None
    chosen = selector(names, labels)
    try:
        ends = await metrics.query(f"last_over_time({chosen}[{seconds}s])", until)
        starts = await metrics.query(f"last_over_time({chosen}[{int(LOOKBACK.total_seconds())}s])", since)
    except MetricsUnavailable:
        return None
    return _Window(starts, ends)


def _arm(increments: Sequence[Sample]) -> Arm:
    generating = [sample for sample in increments if sample.labels.get("route") in GENERATING]
    codes: defaultdict[str, float] = defaultdict(float)
    for sample in generating:
        if "code" in sample.labels:
            codes[sample.labels["code"]] += sample.value
    rated = [sample for sample in increments if sample.labels.get("__name__") == Metric.RATED]
    feedback = [sample for sample in increments if sample.labels.get("__name__") == Metric.FEEDBACK]
    good, bad = _ratings(rated or feedback)
    return Arm(
        requests=sum(codes.values()),
        failures=sum(count for code, count in codes.items() if code.startswith("5") or code == "429"),
        refused=sum(count for code, count in codes.items() if code.startswith("4") and code not in _NO_REFUSAL),
        left=codes[_LEFT],
        latency=_buckets(generating, Metric.LATENCY),
        token_latency=_buckets(generating, Metric.TIME_PER_OUTPUT),
        ratings=good + bad,
        negative=bad,
        answers=_answers(generating),
    )


def _answers(samples: Sequence[Sample]) -> Answers | None:
    """None without a counter of endings: a proxy that has one starts it at 0."""
    endings: defaultdict[str, float] = defaultdict(float)
    for sample in samples:
        if "ending" in sample.labels:
            endings[sample.labels["ending"]] += sample.value
    if not endings:
        return None
    return Answers(endings, _buckets(samples, Metric.ANSWER_TOKENS), _buckets(samples, Metric.FIRST_TOKEN))


def _buckets(samples: Iterable[Sample], histogram: str) -> dict[float, float]:
    buckets: defaultdict[float, float] = defaultdict(float)
    for sample in samples:
        if sample.labels.get("__name__") == f"{histogram}_bucket":
            buckets[float(sample.labels["le"])] += sample.value
    return dict(sorted(buckets.items()))


def _ratings(samples: Iterable[Sample]) -> tuple[float, float]:
    """Numbers of good and bad ratings. A correction is a bad rating."""
    good = bad = 0.0
    for sample in samples:
        if sample.labels["rating"] in _BAD_RATINGS:
            bad += sample.value
        else:
            good += sample.value
    return good, bad


def _by_bin(samples: Iterable[Sample], *, sum_up: bool) -> tuple[float, ...]:
    """Values in the order of their bins; empty if a bin is missing.

    Counters are summed over pods. Gauges are the same in all pods.
    """
    bins: dict[int, float] = {}
    for sample in samples:
        label = sample.labels.get("bin", "")
        if label.isdecimal() and int(label) < MAX_BINS:
            index = int(label)
            bins[index] = bins.get(index, 0.0) + sample.value if sum_up else sample.value
    return tuple(bins[i] for i in range(len(bins))) if sorted(bins) == list(range(len(bins))) else ()


def _identity(sample: Sample) -> frozenset[tuple[str, str]]:
    return frozenset(sample.labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

"""The drift of a version, from one check to the next: baseline, evidence, alarm. Pure.

The baseline is the first requests of a promoted version: at least `baselineRequests`, over at least
`baselineMinimumHours`. Later requests are compared with the baseline and not with the training data, because training
data is not traffic. The distance of the baseline from the training data is reported, but it triggers nothing.

The ratings of the baseline show whether it is a healthy state. Few services have enough ratings. Without enough of
them the status says that health is unknown, and mostly bad ratings raise an alarm by themselves. The text is compared
in any case.

While the evidence is low the baseline continues to grow, each signal up to `GROWTH` times: a few hundred requests
can't tell a shift of 0.3 standard deviations from their own error, a few thousand can.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from driftloop.api.inferenceservice import Drift, DriftStatus, Health, ReferenceSignal
from driftloop.contract.names import SIGNALS
from driftloop.controller.drift.detector import (
    FEEDBACK,
    WATCHED,
    Counters,
    Reference,
    State,
    log_evidence,
    normal_scores,
    signal_evidence,
    threshold,
    update,
    usable,
)
from driftloop.controller.drift.pace import Pace, advance, expected_requests, independent_limit
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp

GROWTH = 10
HEALTHY = 0.5  # a baseline with a larger share of bad ratings is unhealthy
MIN_RATINGS = 10  # with fewer ratings the health is unknown

_PACE = "pace"  # key of the pace in `evidence`, beside the signals

_AT_REST = 1 / 3  # share of the threshold (in ln R); above it a change may have begun
_CAP = 2.0  # upper limit of the evidence, as a multiple of the threshold
_CERTAIN = 1e9  # rows of a reference that is a fixed limit and not an estimate


def watch(status: DriftStatus, version: str, counters: Counters | None, spec: Drift, now: datetime) -> DriftStatus:
    """The drift status after one check of `version`, which is the one that serves.

    `counters` cover the time since `status.consumedUntil`. None (no answer from Prometheus) changes nothing.
    For a new version the watch starts again at `now`, without evidence and with an empty baseline.
    """
    if status.version != version:
        return _started(status, version, spec, now)
    if counters is None:
        return status
    limit = threshold(spec.false_alarms_per_month)
    pace, seconds = _decoded_pace(status.evidence.get(_PACE, "")), _seconds(status, counters)
    expected = expected_requests(pace, counters.requests, seconds)
    collected = _counts(status.baseline)
    collecting = _missing(status, collected, spec) is not None
    compared = references(collected, collecting)
    state = update(decode(status.evidence), counters.bins, compared, spec.tolerance, _CAP * limit, expected)
    evidence = log_evidence(state)
    at_rest = evidence <= _AT_REST * limit
    if collecting or at_rest:
        collected = _added(collected, counters, expected, math.inf if collecting else GROWTH * spec.baseline_requests)
    advanced = status.model_copy(
        update={"consumed_until": timestamp(counters.until), "since": _since(status, counters)}
    )
    missing = _missing(advanced, collected, spec)
    first = status.first_baseline
    if collecting and missing is None and not first and health(collected) != "Bad":
        first = _signals(collected)
    alarm = evidence >= limit
    progress = missing or _progress(collected)
    return status.model_copy(
        update={
            "consumed_until": advanced.consumed_until,
            "since": advanced.since,
            "requests": status.requests + (0 if collecting else round(counters.requests)),
            "evidence": encode(state) | {_PACE: _encoded_pace(advance(pace, counters.requests, seconds))},
            "log_evidence": decimal(evidence),
            "threshold": decimal(limit),
            "baseline": _signals(collected),
            "first_baseline": first,
            "alarm": alarm,
            "last_alarm": timestamp(counters.until) if alarm else status.last_alarm,
            "change_point": timestamp(counters.until) if at_rest else status.change_point,
            "health": health(collected),
            "training_distance": training_distance(collected, counters) or status.training_distance,
            "message": _message(state, limit, progress) if alarm else progress,
        }
    )


def references(collected: Mapping[str, Sequence[int]], collecting: bool) -> dict[str, Reference]:
    """What each signal is compared with. While the baseline is collected, only feedback is compared.

    Without a healthy baseline, feedback is compared with a fixed limit: half of the ratings may be bad.
    """
    compared = {} if collecting else {signal: _reference(counts) for signal, counts in collected.items()}
    if collecting or health(collected) != "Good":
        compared[FEEDBACK] = Reference(_CERTAIN, (1 - HEALTHY, HEALTHY))
    return compared


def health(collected: Mapping[str, Sequence[int]]) -> Health:
    """Good if at most half of the baseline's ratings are bad; Unknown with fewer than MIN_RATINGS ratings."""
    good, bad = (*collected.get(FEEDBACK, ()), 0, 0)[:2]
    if good + bad < MIN_RATINGS:
        return "Unknown"
    return "Good" if bad <= HEALTHY * (good + bad) else "Bad"


def training_distance(collected: Mapping[str, Sequence[int]], counters: Counters) -> dict[str, str]:
    """The distance of the baseline from the training profile: the mean normal score per text signal, as a decimal.

    In standard deviations of the training data, with a sign. Empty when the profile is unknown.
    """
    distances = {}
    for signal in SIGNALS:
        masses, counts = counters.reference.get(signal, ()), collected.get(signal, ())
        scores = normal_scores(Reference(counters.reference_rows, tuple(masses)))
        if scores and len(scores) == len(counts) and sum(counts) > 0:
            distances[signal] = decimal(sum(s * c for s, c in zip(scores, counts, strict=True)) / sum(counts))
    return distances


def encode(state: State) -> dict[str, str]:
    """The state as the status stores it: decimals in a text per signal."""
    return {signal: " ".join(decimal(value) for value in values) for signal, values in state.items()}


def decode(evidence: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """The state that `encode` wrote. A signal that does not parse is left out and starts without evidence."""
    state = {}
    for signal, text in evidence.items():
        try:
            values = tuple(float(part) for part in text.split())
        except ValueError:
            continue
        if signal in WATCHED and not any(math.isnan(value) for value in values):
            state[signal] = values
    return state


def decimal(value: float) -> str:
    """Four decimals, which is enough for every reader of the status."""
    return f"{value:.4f}"


def _seconds(status: DriftStatus, counters: Counters) -> float:
    began = parse_timestamp(status.consumed_until) if status.consumed_until else counters.until
    return (counters.until - began).total_seconds()


def _encoded_pace(pace: Pace) -> str:
    return f"{pace.rate:.6g} {pace.seconds:.0f}"


def _decoded_pace(text: str) -> Pace:
    try:
        rate, seconds = (float(part) for part in text.split())
    except ValueError:
        return Pace()
    return Pace(rate, seconds) if math.isfinite(rate) and math.isfinite(seconds) else Pace()


def _started(status: DriftStatus, version: str, spec: Drift, now: datetime) -> DriftStatus:
    return DriftStatus(
        version=version,
        since=timestamp(now),
        consumed_until=timestamp(now),
        change_point=timestamp(now),
        threshold=decimal(threshold(spec.false_alarms_per_month)),
        first_baseline=status.first_baseline,
        message=f"learning what is normal: 0/{spec.baseline_requests} requests",
    )


def _since(status: DriftStatus, counters: Counters) -> str | None:
    """When the baseline began: with the window of its first request. Hours without traffic do not count."""
    idle = _rows(_counts(status.baseline)) == 0 and counters.requests <= 0
    return timestamp(counters.until) if status.since and idle else status.since


def _missing(status: DriftStatus, collected: Mapping[str, Sequence[int]], spec: Drift) -> str | None:
    """What the baseline still needs, as a message; None when it is complete.

    A status of an older release has no `since`; its baseline counts as old enough.
    """
    rows, hours = _rows(collected), spec.baseline_minimum_hours
    lacks = [f"{rows}/{spec.baseline_requests} requests"] if rows < spec.baseline_requests else []
    if status.since and status.consumed_until:
        passed = (parse_timestamp(status.consumed_until) - parse_timestamp(status.since)).total_seconds() / 3600
        lacks += [f"{passed:.2g} of {hours:g} hours"] if passed < hours else []
    return f"learning what is normal: {', '.join(lacks)}" if lacks else None


def _counts(signals: Sequence[ReferenceSignal]) -> dict[str, tuple[int, ...]]:
    return {signal.signal: tuple(signal.counts) for signal in signals}


def _signals(collected: Mapping[str, Sequence[int]]) -> list[ReferenceSignal]:
    return [ReferenceSignal(signal=signal, counts=list(counts)) for signal, counts in collected.items()]


def _rows(collected: Mapping[str, Sequence[int]]) -> int:
    return max((sum(counts) for signal, counts in collected.items() if signal in SIGNALS), default=0)


def _reference(counts: Sequence[int]) -> Reference:
    rows = sum(counts)
    return Reference(rows, tuple(count / rows for count in counts) if rows else ())


def _added(
    collected: Mapping[str, Sequence[int]], counters: Counters, expected: float, most: float
) -> dict[str, tuple[int, ...]]:
    """The baseline with the counts of a window, for the signals that have fewer than `most`.

    A burst counts for a few times the usual number of requests at most.
    """
    grown = {signal: tuple(counts) for signal, counts in collected.items()}
    weight = min(1.0, independent_limit(expected) / counters.requests) if counters.requests > 0 else 1.0
    for signal in WATCHED:
        counts = usable(counters.bins.get(signal))
        before = grown.get(signal) or (0,) * len(counts)
        if len(before) == len(counts) > 0 and sum(before) < most:
            grown[signal] = tuple(round(a + weight * b) for a, b in zip(before, counts, strict=True))
    return grown


def _progress(collected: Mapping[str, Sequence[int]]) -> str:
    rated = sum(collected.get(FEEDBACK, ()))
    unhealthy = {
        "Unknown": f"; health unknown: {rated} of {MIN_RATINGS} ratings",
        "Bad": "; they had mostly bad ratings",
        "Good": "",
    }
    return f"compared with the first {_rows(collected)} requests of the version{unhealthy[health(collected)]}"


def _message(state: State, limit: float, progress: str) -> str:
    strongest = max(WATCHED, key=lambda signal: signal_evidence(state, signal))
    moved = [s for s in WATCHED if s == strongest or signal_evidence(state, s) >= limit]
    return f"drift in {', '.join(moved)}; {progress}"

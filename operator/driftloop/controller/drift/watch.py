"""A version's drift from one look to the next: baseline, evidence, alarm. Pure.

The first requests of a promoted version, `baselineRequests` of them and those of `baselineMinimumHours`, say what its
traffic is like, and are the reference from then on: training data is not traffic. How far they are from the training
data is a figure of its own, which starts nothing.

Whether they were a good time is told by their ratings. Few services have enough: then health is unknown, which the
status says, and mostly bad ratings raise an alarm by themselves, while the text is compared all the same.

As long as evidence is at rest the baseline goes on growing, each signal up to `GROWTH` times: a few hundred requests
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
from driftloop.controller.drift.pace import Pace, advance, believed, usual
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp

GROWTH = 10
HEALTHY = 0.5  # a larger share of bad ratings is no state to call normal
MIN_RATINGS = 10  # fewer say nothing

_PACE = "pace"  # its key beside the signals' evidence

_AT_REST = 1 / 3  # of the threshold (of ln R); above it the change has begun
_CAP = 2.0  # times the threshold
_CERTAIN = 1e9  # rows behind a limit that nobody estimated


def watch(status: DriftStatus, version: str, counters: Counters | None, spec: Drift, now: datetime) -> DriftStatus:
    """The status after one look at `version`, the one that serves.

    `counters` cover the time from `status.consumedUntil`; None (Prometheus could not say) changes nothing. Another
    version starts anew: from `now` on, without evidence, with a baseline to collect.
    """
    if status.version != version:
        return _started(status, version, spec, now)
    if counters is None:
        return status
    limit = threshold(spec.false_alarms_per_month)
    pace, seconds = _decoded_pace(status.evidence.get(_PACE, "")), _seconds(status, counters)
    expected = usual(pace, counters.requests, seconds)
    collected = _counts(status.baseline)
    collecting = _missing(status, collected, spec) is not None
    compared = references(collected, collecting)
    state = update(decode(status.evidence), counters.bins, compared, spec.tolerance, _CAP * limit, expected)
    evidence = log_evidence(state)
    at_rest = evidence <= _AT_REST * limit
    if collecting or at_rest:
        collected = _added(collected, counters, expected, math.inf if collecting else GROWTH * spec.baseline_requests)
    looked = status.model_copy(update={"consumed_until": timestamp(counters.until)})
    missing = _missing(looked, collected, spec)
    first = status.first_baseline
    if collecting and missing is None and not first and health(collected) != "Bad":
        first = _signals(collected)
    alarm = evidence >= limit
    told = missing or _progress(collected)
    return status.model_copy(
        update={
            "consumed_until": timestamp(counters.until),
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
            "message": _message(state, limit, told) if alarm else told,
        }
    )


def references(collected: Mapping[str, Sequence[int]], collecting: bool) -> dict[str, Reference]:
    """What each signal is compared with: while the baseline is collected, only feedback with anything.

    Without a healthy baseline, half of the ratings is the limit for feedback: it needs no past to be too much.
    """
    found = {} if collecting else {signal: _reference(counts) for signal, counts in collected.items()}
    if collecting or health(collected) != "Good":
        found[FEEDBACK] = Reference(_CERTAIN, (1 - HEALTHY, HEALTHY))
    return found


def health(collected: Mapping[str, Sequence[int]]) -> Health:
    """Whether most ratings of the baseline are good; Unknown with fewer than MIN_RATINGS of them."""
    good, bad = (*collected.get(FEEDBACK, ()), 0, 0)[:2]
    if good + bad < MIN_RATINGS:
        return "Unknown"
    return "Good" if bad <= HEALTHY * (good + bad) else "Bad"


def training_distance(collected: Mapping[str, Sequence[int]], counters: Counters) -> dict[str, str]:
    """How far the baseline is from the training's profile: the mean normal score of each text signal, as a decimal.

    In standard deviations of the training data, with a sign. Empty when the profile is not known.
    """
    found = {}
    for signal in SIGNALS:
        masses, counts = counters.reference.get(signal, ()), collected.get(signal, ())
        scores = normal_scores(Reference(counters.reference_rows, tuple(masses)))
        if scores and len(scores) == len(counts) and sum(counts) > 0:
            found[signal] = decimal(sum(s * c for s, c in zip(scores, counts, strict=True)) / sum(counts))
    return found


def encode(state: State) -> dict[str, str]:
    """The state as the API holds it: decimals, a signal."""
    return {signal: " ".join(decimal(value) for value in values) for signal, values in state.items()}


def decode(evidence: Mapping[str, str]) -> dict[str, tuple[float, ...]]:
    """The state that `encode` wrote; a signal that doesn't parse starts anew."""
    found = {}
    for signal, text in evidence.items():
        try:
            values = tuple(float(part) for part in text.split())
        except ValueError:
            continue
        if signal in WATCHED and not any(math.isnan(value) for value in values):
            found[signal] = values
    return found


def decimal(value: float) -> str:
    """Four decimals: more would be written and never be read."""
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


def _missing(status: DriftStatus, collected: Mapping[str, Sequence[int]], spec: Drift) -> str | None:
    """What the baseline lacks, in words; None when it is whole. One of before `since` was kept has had its time."""
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
    """The baseline with a window's counts, where a signal has fewer than `most`.

    Of a burst, no more than what is usual a few times over.
    """
    found = {signal: tuple(counts) for signal, counts in collected.items()}
    weight = min(1.0, believed(expected) / counters.requests) if counters.requests > 0 else 1.0
    for signal in WATCHED:
        counts = usable(counters.bins.get(signal))
        before = found.get(signal) or (0,) * len(counts)
        if len(before) == len(counts) > 0 and sum(before) < most:
            found[signal] = tuple(round(a + weight * b) for a, b in zip(before, counts, strict=True))
    return found


def _progress(collected: Mapping[str, Sequence[int]]) -> str:
    rated = sum(collected.get(FEEDBACK, ()))
    unhealthy = {
        "Unknown": f"; health unknown: {rated} of {MIN_RATINGS} ratings",
        "Bad": "; they had mostly bad ratings",
        "Good": "",
    }
    return f"compared with the first {_rows(collected)} requests of the version{unhealthy[health(collected)]}"


def _message(state: State, limit: float, told: str) -> str:
    strongest = max(WATCHED, key=lambda signal: signal_evidence(state, signal))
    moved = [s for s in WATCHED if s == strongest or signal_evidence(state, s) >= limit]
    return f"drift in {', '.join(moved)}; {told}"

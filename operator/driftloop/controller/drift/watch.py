"""A version's drift from one look to the next: baseline, evidence, alarm. Pure.

The first `baselineRequests` requests of a promoted version say what its traffic is like (training data is not
traffic). They become the reference if their feedback is healthy; while it is unknown or bad, the profile from training
stays the reference, with a wider tolerance. Until the baseline is whole only feedback is judged: a version retrained
with replay has a profile full of the old, and would be accused of the very traffic that it was made for.

As long as evidence is at rest the baseline goes on growing, up to `GROWTH` times: a few hundred requests can't tell a
shift of 0.3 standard deviations from their own error, a few thousand can.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime

from driftloop.api.inferenceservice import Drift, DriftStatus, ReferenceSignal
from driftloop.contract.names import SIGNALS
from driftloop.controller.conditions import parse_timestamp, timestamp
from driftloop.controller.drift.detector import (
    FEEDBACK,
    WATCHED,
    Counters,
    Reference,
    State,
    log_evidence,
    signal_evidence,
    threshold,
    update,
    usable,
)
from driftloop.controller.drift.pace import Pace, advance, believed, usual

GROWTH = 10
HEALTHY = 0.5  # a larger share of bad ratings is no state to call normal
MIN_RATINGS = 10  # fewer say nothing

# Held-out rows of one data set differ by 0.13 standard deviations in length from those trained on (banking77's test and
# training files); 0.1 allows for 0.25.
TRAINING_TOLERANCE = 0.1

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
    collecting = _rows(collected) < spec.baseline_requests
    based = not collecting and is_healthy(collected)
    compared = references(collected, collecting, counters)
    tolerance = spec.tolerance if based else max(spec.tolerance, TRAINING_TOLERANCE)
    state = update(decode(status.evidence), counters.bins, compared, tolerance, _CAP * limit, expected)
    evidence = log_evidence(state)
    at_rest = evidence <= _AT_REST * limit
    if collecting or (at_rest and _rows(collected) < GROWTH * spec.baseline_requests):
        collected = _added(collected, counters, expected)
    first = status.first_baseline
    if collecting and _rows(collected) >= spec.baseline_requests and not first and is_healthy(collected):
        first = _signals(collected)
    alarm = evidence >= limit
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
            "message": _message(state, limit, collected, spec) if alarm else _progress(collected, spec),
        }
    )


def references(collected: Mapping[str, Sequence[int]], collecting: bool, counters: Counters) -> dict[str, Reference]:
    """What each signal is compared with.

    Without a healthy baseline, half of the ratings is the limit for feedback: it needs no past to be too much.
    """
    if not collecting and is_healthy(collected):
        return {signal: _reference(counts) for signal, counts in collected.items()}
    found = {FEEDBACK: Reference(_CERTAIN, (1 - HEALTHY, HEALTHY))}
    if not collecting and counters.reference_rows > 0:
        profile = {s: Reference(counters.reference_rows, tuple(m)) for s, m in counters.reference.items()}
        found |= {signal: reference for signal, reference in profile.items() if signal in SIGNALS}
    return found


def is_healthy(collected: Mapping[str, Sequence[int]]) -> bool:
    """Whether the ratings are known and most of them good. Unknown is not healthy."""
    good, bad = (*collected.get(FEEDBACK, ()), 0, 0)[:2]
    return good + bad >= MIN_RATINGS and bad <= HEALTHY * (good + bad)


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
        consumed_until=timestamp(now),
        change_point=timestamp(now),
        threshold=decimal(threshold(spec.false_alarms_per_month)),
        first_baseline=status.first_baseline,
        message=_progress({}, spec),
    )


def _counts(signals: Sequence[ReferenceSignal]) -> dict[str, tuple[int, ...]]:
    return {signal.signal: tuple(signal.counts) for signal in signals}


def _signals(collected: Mapping[str, Sequence[int]]) -> list[ReferenceSignal]:
    return [ReferenceSignal(signal=signal, counts=list(counts)) for signal, counts in collected.items()]


def _rows(collected: Mapping[str, Sequence[int]]) -> int:
    return max((sum(counts) for signal, counts in collected.items() if signal in SIGNALS), default=0)


def _reference(counts: Sequence[int]) -> Reference:
    rows = sum(counts)
    return Reference(rows, tuple(count / rows for count in counts) if rows else ())


def _added(collected: Mapping[str, Sequence[int]], counters: Counters, expected: float) -> dict[str, tuple[int, ...]]:
    """The baseline with a window's counts; of a burst, no more than what is usual a few times over."""
    found = {signal: tuple(counts) for signal, counts in collected.items()}
    weight = min(1.0, believed(expected) / counters.requests) if counters.requests > 0 else 1.0
    for signal in WATCHED:
        counts = usable(counters.bins.get(signal))
        before = found.get(signal) or (0,) * len(counts)
        if len(before) == len(counts) > 0:
            found[signal] = tuple(round(a + weight * b) for a, b in zip(before, counts, strict=True))
    return found


def _progress(collected: Mapping[str, Sequence[int]], spec: Drift) -> str:
    rows = _rows(collected)
    if rows < spec.baseline_requests:
        return f"learning what is normal: {rows}/{spec.baseline_requests} requests"
    if not is_healthy(collected):
        return "compared with the training data: the first requests had too little or too much bad feedback"
    return f"compared with the first {rows} requests of the version"


def _message(state: State, limit: float, collected: Mapping[str, Sequence[int]], spec: Drift) -> str:
    strongest = max(WATCHED, key=lambda signal: signal_evidence(state, signal))
    moved = [s for s in WATCHED if s == strongest or signal_evidence(state, s) >= limit]
    return f"drift in {', '.join(moved)}; {_progress(collected, spec)}"

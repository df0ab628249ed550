"""The drift of a version, from one check to the next: baseline, evidence, alarm. Pure.

The baseline is the first requests of a promoted version: at least `baselineRequests`, over at least
`baselineMinimumHours`. Later requests are compared with the baseline and not with the training data, because training
data is not traffic. The distance of the baseline from the training data is reported, but it triggers nothing.

The ratings of the baseline show whether it is a healthy state. Few services have enough ratings. Without enough of
them the status says that health is unknown, and mostly bad ratings raise an alarm by themselves. The text is compared
in any case.

While the evidence is low the baseline continues to grow for `GROWTH`, block by block: a few hundred requests can't tell
a shift of 0.3 standard deviations from their own error, and a day can't tell a weekend from a shift. A block is learned
only when it has ended without evidence, so that a change that begins in it is not learned.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from driftloop.api.inferenceservice import Drift, DriftStatus, Health, Learned, ReferenceSignal
from driftloop.contract.names import ANSWER_SIGNALS, NOVELTY, TEXT_SIGNALS
from driftloop.controller.drift.change import sentence, shifts, shortened
from driftloop.controller.drift.detector import (
    ALWAYS,
    FEEDBACK,
    WATCHED,
    Counters,
    Reference,
    Window,
    log_evidence,
    normal_scores,
    smoothed,
    start_weight,
    threshold,
    update,
    usable,
)
from driftloop.controller.drift.memory import (
    Memory,
    baseline,
    closed,
    counted,
    decimal,
    decode,
    encode,
    entered,
    known,
    remembered,
    rows,
    seen,
    stored,
)
from driftloop.controller.drift.normal import Counts
from driftloop.controller.drift.pace import Pace, advance, expected_requests, limited
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp

GROWTH = timedelta(days=28)  # each hour of the week four times
HEALTHY = 0.5  # a baseline with a larger share of bad ratings is unhealthy
MIN_RATINGS = 10  # with fewer ratings the health is unknown

_PACE = "pace"  # key of the pace in `evidence`, beside the signals

_AT_REST = 1 / 3  # share of the threshold (in ln R); above it a change may have begun
_CAP = 2.0  # upper limit of a bet's evidence in an alarm, as a multiple of the threshold
_HEADROOM = 4.0  # before an alarm, above the threshold (in ln R): a few of 24 bets suffice, and a burst is soon over
_CERTAIN = 1e9  # rows of a reference that is a fixed limit and not an estimate


def watch(status: DriftStatus, version: str, counters: Counters | None, spec: Drift, now: datetime) -> DriftStatus:
    """The drift status after one check of `version`, which is the one that serves.

    `counters` cover the time since `status.consumedUntil`. None (no answer from Prometheus) changes nothing.
    For a new version the watch starts again at `now`, without evidence and with an empty baseline. So it does with a
    status of an older release, which has learned nothing about times of the day.
    """
    if status.version != version or status.learned is None:
        return _started(status, version, spec, now)
    if counters is None:
        return status
    limit = threshold(spec.false_alarms_per_month)
    began, before = _began(status, counters), decode(status.evidence)
    unwatched = (() if spec.novelty else (NOVELTY,)) + (() if spec.answers else ANSWER_SIGNALS)
    counters = replace(counters, bins={name: bins for name, bins in counters.bins.items() if name not in unwatched})
    before = {signal: values for signal, values in before.items() if signal not in unwatched}
    middle, seconds = began + (counters.until - began) / 2, (counters.until - began).total_seconds()
    pace = _decoded_pace(status.evidence.get(_PACE, ""))
    expected = expected_requests(pace, counters.requests, seconds)

    memory = remembered(status)
    collecting = missing(status, spec) is not None
    memory = entered(memory, middle, collecting or learns(status, began, log_evidence(before), limit))
    compared = references(memory, middle, collecting, spec.baseline_requests)
    window = Window(expected, start_weight(pace.rate))
    state = update(before, counters.bins, compared, spec.tolerance, ceiling(limit, status.alarm), window)
    evidence = log_evidence(state)
    at_rest = evidence <= _AT_REST * limit
    learnable = _learnable(memory, counters, expected)
    memory = counted(memory, learnable)

    advanced = status.model_copy(
        update={"consumed_until": timestamp(counters.until), "since": _since(status, memory, counters)}
    )
    lacks = _missing(advanced, rows(seen(memory)), spec)
    first = status.first_baseline
    if (collecting and lacks is None) or (
        not collecting and learns(advanced, counters.until, evidence, limit) and outgrown(memory)
    ):
        memory = closed(memory, learn=True)
    collected = seen(memory) if at_rest else known(memory)
    if collecting and lacks is None and not first and health(collected) != "Bad":
        first = baseline(memory)
    changed = timestamp(counters.until) if at_rest else status.change_point
    rising_since = parse_timestamp(changed) if changed else began
    alarm = is_alarm(evidence, limit, rising_since, counters.until, spec)
    progress = lacks or _progress(memory, collected)
    after = status.model_copy(
        update={
            "consumed_until": advanced.consumed_until,
            "since": advanced.since,
            "requests": status.requests + (0 if collecting else round(counters.requests)),
            "evidence": encode(state) | {_PACE: _encoded_pace(advance(pace, counters.requests, seconds))},
            "log_evidence": decimal(evidence),
            "threshold": decimal(limit),
            "baseline": baseline(memory),
            "first_baseline": first,
            "learned": stored(memory),
            "alarm": alarm,
            "last_alarm": timestamp(counters.until) if alarm else status.last_alarm,
            "change_point": changed,
            "changed": [] if at_rest else _added(status.changed, learnable),
            "health": health(collected),
            "training_distance": training_distance(seen(memory), counters) or status.training_distance,
            **({} if alarm else {"topics": [], "topics_at": None, "unnamed_topics": 0}),
        }
    )
    told = after.model_copy(update={"shift": {s: decimal(v) for s, v in shifts(after).items()} if alarm else {}})
    return told.model_copy(update={"message": shortened(f"{sentence(told)}; {progress}") if alarm else progress})


def missing(status: DriftStatus, spec: Drift) -> str | None:
    """What the baseline still needs, as a message; None when it is complete."""
    return _missing(status, rows(seen(remembered(status))), spec)


def learns(status: DriftStatus, now: datetime, evidence: float, limit: float) -> bool:
    """Whether a block that ends now is learned: nothing speaks for a change, and the baseline is not yet complete."""
    young = status.since is None or now - parse_timestamp(status.since) < GROWTH
    return young and evidence <= _AT_REST * limit


def outgrown(memory: Memory) -> bool:
    """Whether the block has as many requests as the baseline: then it ends before its hour."""
    return rows(memory.block) >= max(1, rows(known(memory)))


def ceiling(limit: float, alarm: bool) -> float:
    """The most evidence of a bet."""
    return _CAP * limit if alarm else limit + _HEADROOM


def is_alarm(evidence: float, limit: float, rising_since: datetime, now: datetime, spec: Drift) -> bool:
    """Whether the evidence is above the threshold, and has not been at rest for the minimum duration."""
    return evidence >= limit and now - rising_since >= timedelta(minutes=spec.minimum_duration_minutes)


def references(memory: Memory, when: datetime, collecting: bool, fewest: int = 0) -> dict[str, Reference]:
    """What each signal is compared with. While the baseline is collected, only feedback is compared.

    A signal that began later than the others is compared when its own baseline has `fewest` requests.
    Without a healthy baseline, feedback is compared with a fixed limit: half of the ratings may be bad.
    """
    enough = {name: normal for name, normal in memory.normals.items() if name in ALWAYS or normal.rows >= fewest}
    compared = {} if collecting else {signal: normal.at(when) for signal, normal in enough.items()}
    if collecting or health(known(memory)) != "Good":
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
    for signal in TEXT_SIGNALS:
        masses, counts = counters.reference.get(signal, ()), collected.get(signal, ())
        scores = normal_scores(Reference(counters.reference_rows, tuple(masses)))
        if scores and len(scores) == len(counts) and sum(counts) > 0:
            distances[signal] = decimal(sum(s * c for s, c in zip(scores, counts, strict=True)) / sum(counts))
    return distances


def _began(status: DriftStatus, counters: Counters) -> datetime:
    return parse_timestamp(status.consumed_until) if status.consumed_until else counters.until


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
        learned=Learned(),
        last_alarm=status.last_alarm if status.version == version else None,
        message=f"learning what is normal: 0/{spec.baseline_requests} requests",
    )


def _since(status: DriftStatus, memory: Memory, counters: Counters) -> str | None:
    """When the baseline began: with the window of its first request. Hours without traffic do not count."""
    idle = rows(seen(memory)) == 0 and counters.requests <= 0
    return timestamp(counters.until) if status.since and idle else status.since


def _missing(status: DriftStatus, collected: int, spec: Drift) -> str | None:
    hours = spec.baseline_minimum_hours
    lacks = [f"{collected}/{spec.baseline_requests} requests"] if collected < spec.baseline_requests else []
    if status.since and status.consumed_until:
        passed = (parse_timestamp(status.consumed_until) - parse_timestamp(status.since)).total_seconds() / 3600
        lacks += [f"{passed:.2g} of {hours:g} hours"] if passed < hours else []
    return f"learning what is normal: {', '.join(lacks)}" if lacks else None


def _learnable(memory: Memory, counters: Counters, expected: float) -> dict[str, Counts]:
    """The window's counts, from which a burst is cut."""
    learnable: dict[str, Counts] = {}
    for signal in WATCHED:
        counts, normal = usable(counters.bins.get(signal)), memory.normals.get(signal)
        masses = smoothed(Reference(normal.rows, tuple(c / normal.rows for c in normal.counts))) if normal else ()
        learnable[signal] = limited(counts, masses, expected)
    return learnable


def _progress(memory: Memory, collected: Mapping[str, Sequence[int]]) -> str:
    rated = sum(collected.get(FEEDBACK, ()))
    unhealthy = {
        "Unknown": f"; health unknown: {rated} of {MIN_RATINGS} ratings",
        "Bad": "; they had mostly bad ratings",
        "Good": "",
    }
    return f"compared with the first {rows(known(memory))} requests{unhealthy[health(collected)]}"


def _added(changed: Sequence[ReferenceSignal], learnable: Mapping[str, Counts]) -> list[ReferenceSignal]:
    before = Memory(block={signal.signal: tuple(signal.counts) for signal in changed})
    together = counted(before, learnable).block
    return [ReferenceSignal(signal=name, counts=list(counts)) for name, counts in together.items()]

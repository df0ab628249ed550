"""The queries to Prometheus that this reconcile needs: only those that its decision will use. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from driftloop.controller.drift.memory import design_effect, remembered
from driftloop.controller.kinds.inferenceservice.drift import window
from driftloop.controller.kinds.inferenceservice.retraining.step import samples_since
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp

# Interval of the queries for a paused canary. A query covers the time since the start of the analysis. For a service
# with little traffic that becomes days, and in the end more samples than Prometheus allows per query.
PAUSED_SECONDS = 60.0
TOPICS_PAUSE = timedelta(seconds=60)  # between two answers about topics


@dataclass(frozen=True)
class ArmsQuestion:
    """The metrics of both revisions of a canary."""

    stable: str  # name of the revision
    candidate: str  # name of the revision
    since: datetime  # requests from then on count


@dataclass(frozen=True)
class CountersQuestion:
    """The counters of one version's requests."""

    version: str  # name of the version
    since: datetime  # begin of the window
    until: datetime  # end of the window


@dataclass(frozen=True)
class TopicsQuestion:
    """What the requests to a revision are about since a change."""

    revision: str  # name of the revision
    since: datetime  # the change
    together: float  # requests that count as one


@dataclass(frozen=True)
class RequestsQuestion:
    """How busy the door is, and the pods of a revision."""

    revision: str | None  # name of the revision; None: only the door is asked
    idle_seconds: int  # a pod with a later request is not idle


@dataclass(frozen=True)
class Questions:
    """The queries of one reconcile; None where a query is not needed now."""

    arms: ArmsQuestion | None  # during an analysis
    shadow: ArmsQuestion | None  # while the candidate is in the shadow
    counters: CountersQuestion | None  # when a window of the drift detector has ended
    topics: TopicsQuestion | None  # once a minute during an alarm
    requests: RequestsQuestion | None  # with scaleToZero, without a rollout
    samples: datetime | None  # time from which corrections count, if a retraining was triggered


def questions(situation: Situation) -> Questions:
    """All queries that this reconcile needs."""
    return Questions(
        _arms(situation),
        _shadow(situation),
        _counters(situation),
        _topics(situation),
        _requests(situation),
        samples_since(situation),
    )


def arms_due(situation: Situation) -> bool:
    """Whether this reconcile needs the metrics of both revisions."""
    candidate, status = situation.candidate, situation.observed.status
    if situation.stable is None or candidate is None or candidate.analysis_started is None or candidate.promoted:
        return False
    if status.phase != "Paused" or status.analysis is None or status.analysis.looked is None:
        return True
    same_analysis = status.analysis.started == timestamp(candidate.analysis_started)
    pause_over = situation.now - parse_timestamp(status.analysis.looked) >= timedelta(seconds=PAUSED_SECONDS)
    return not same_analysis or pause_over


def shadow_due(situation: Situation) -> bool:
    """Whether this reconcile needs the pairs of a candidate in the shadow."""
    candidate, status = situation.candidate, situation.observed.status
    if situation.stable is None or candidate is None or not candidate.hidden or candidate.shadow_started is None:
        return False
    if status.phase != "Paused" or status.shadow is None or status.shadow.looked is None:
        return True
    same_shadow = status.shadow.started == timestamp(candidate.shadow_started)
    pause_over = situation.now - parse_timestamp(status.shadow.looked) >= timedelta(seconds=PAUSED_SECONDS)
    return not same_shadow or pause_over


def _shadow(situation: Situation) -> ArmsQuestion | None:
    stable, candidate = situation.stable, situation.candidate
    if stable is None or candidate is None or candidate.shadow_started is None or not shadow_due(situation):
        return None
    return ArmsQuestion(stable.revision, candidate.revision, candidate.shadow_started)


def _arms(situation: Situation) -> ArmsQuestion | None:
    stable, candidate = situation.stable, situation.candidate
    if stable is None or candidate is None or candidate.analysis_started is None or not arms_due(situation):
        return None
    return ArmsQuestion(stable.revision, candidate.revision, candidate.analysis_started)


def _topics(situation: Situation) -> TopicsQuestion | None:
    stable, spec, drift = situation.stable, situation.observed.spec.drift, situation.observed.status.drift
    if stable is None or drift is None or not (spec.enabled and spec.topics and drift.alarm):
        return None
    if drift.version != stable.version or drift.held_from is not None or drift.change_point is None:
        return None
    if drift.topics_at is not None and situation.now - parse_timestamp(drift.topics_at) < TOPICS_PAUSE:
        return None
    together = design_effect(remembered(drift))
    return TopicsQuestion(stable.revision, parse_timestamp(drift.change_point), together)


def _requests(situation: Situation) -> RequestsQuestion | None:
    stable, scale_to_zero = situation.stable, situation.observed.spec.scale_to_zero
    if stable is None or scale_to_zero is None:
        return None
    idle, state = scale_to_zero.idle_seconds, stable.sleep.state if stable.sleep else "Awake"
    match state:
        case "Awake" if situation.candidate:
            return None
        case "Awake" | "Closing":
            return RequestsQuestion(stable.revision, idle)
        case "Asleep":
            return RequestsQuestion(None, idle)
        case "Waking":
            return None
        case never:
            assert_never(never)


def _counters(situation: Situation) -> CountersQuestion | None:
    span = window(situation)
    return CountersQuestion(situation.stable.version, *span) if situation.stable and span else None

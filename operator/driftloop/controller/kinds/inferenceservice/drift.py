"""Drift of a service's requests: the drift detector's check of the stable version. Pure."""

from datetime import datetime, timedelta

from driftloop.api.inferenceservice import DriftStatus
from driftloop.contract.topics import TopicsReport
from driftloop.controller.drift.change import sentence, shortened
from driftloop.controller.drift.rebase import hand_over
from driftloop.controller.drift.watch import watch
from driftloop.controller.kinds.inferenceservice.observed import Version
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.traffic import SETTLE
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason

CHECK_SECONDS = 10.0  # between two checks; each check writes the status


def check_drift(situation: Situation) -> tuple[DriftStatus | None, tuple[Event, ...]]:
    """The detector's state after this check, and an Event when the alarm is raised.

    The evidence and the time up to which counters were read are written together in one status. So after a crash no
    counters are lost or counted twice.
    """
    stable, spec, before = situation.stable, situation.observed.spec.drift, situation.observed.status.drift
    if not spec.enabled:
        return None, ()
    if stable is None:
        return before, ()
    before = (before or DriftStatus()) if spec.topics else without_topics(before or DriftStatus())
    state = hand_over(before, stable.version, _has_gained_since(before.change_point, situation.serving))
    held = state.held_from is not None
    if not held:
        state = with_topics(state, situation.observed.topics, situation.now)
    after = state if held else watch(state, stable.version, situation.observed.counters, spec, situation.now)
    rises = after.alarm and not held and not (before.alarm and before.version == after.version)
    event = Event("Warning", Reason.DRIFT_DETECTED, f"{stable.version}: {after.message}")
    return after, (event,) if rises else ()


def with_topics(status: DriftStatus, report: TopicsReport | None, now: datetime) -> DriftStatus:
    """The state with what a pod told about the requests of an alarm."""
    if report is None or not status.alarm:
        return status
    unnamed = max(0, (report.grown or 0) - len(report.topics))
    update = {"topics": report.topics, "topics_at": timestamp(now), "unnamed_topics": unnamed}
    return status.model_copy(update=update)


def without_topics(status: DriftStatus) -> DriftStatus:
    """The state without words of prompts, as the service does not allow them any more."""
    if status.topics_at is None:
        return status
    bare = status.model_copy(update={"topics": [], "topics_at": None, "unnamed_topics": 0})
    return bare.model_copy(update={"message": shortened(sentence(bare))})


def _has_gained_since(change_point: str | None, serving: Version | None) -> bool:
    """Whether the version has shown a gain since the change. Gains over versions before it say nothing about it."""
    if serving is None or not serving.gained or serving.judged is None:
        return False
    return change_point is None or serving.judged >= parse_timestamp(change_point)


def window(situation: Situation) -> tuple[datetime, datetime] | None:
    """The time window whose counters are due; None if it is too early, or nothing is watched."""
    stable, status = situation.stable, situation.observed.status.drift
    if (
        not situation.observed.spec.drift.enabled
        or stable is None
        or status is None
        or status.version != stable.version
    ):
        return None
    if status.consumed_until is None or status.held_from is not None:
        return None
    since, until = parse_timestamp(status.consumed_until), situation.now - SETTLE
    return (since, until) if until - since >= timedelta(seconds=CHECK_SECONDS) else None

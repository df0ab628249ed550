"""What is to be asked of Prometheus for this look: only what its decision will use. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from driftloop.controller.kinds.inferenceservice.drift import window
from driftloop.controller.kinds.inferenceservice.retraining.step import samples_since
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import parse_timestamp, timestamp

# How often the figures of a paused canary are looked at. What is asked of Prometheus reaches back to the start of the
# analysis: for the quietest services that is days, at last more than it lets a query have.
PAUSED_SECONDS = 60.0


@dataclass(frozen=True)
class ArmsQuestion:
    """What both revisions of a canary did."""

    stable: str  # revision
    candidate: str  # revision
    since: datetime


@dataclass(frozen=True)
class CountersQuestion:
    """What was counted of one version's requests."""

    version: str  # name
    since: datetime
    until: datetime


@dataclass(frozen=True)
class Questions:
    """None: not to be asked now."""

    arms: ArmsQuestion | None  # during an analysis
    counters: CountersQuestion | None  # when a window of the drift detector is over
    samples: datetime | None  # since when corrections count, when something asks for a retraining


def questions(situation: Situation) -> Questions:
    """All of this look."""
    return Questions(_arms(situation), _counters(situation), samples_since(situation))


def arms_due(situation: Situation) -> bool:
    """Whether this look is to be at the figures of both revisions."""
    candidate, status = situation.candidate, situation.observed.status
    if situation.stable is None or candidate is None or candidate.analysis_started is None or candidate.promoted:
        return False
    if status.phase != "Paused" or status.analysis is None or status.analysis.looked is None:
        return True
    of_this = status.analysis.started == timestamp(candidate.analysis_started)
    rested = situation.now - parse_timestamp(status.analysis.looked) >= timedelta(seconds=PAUSED_SECONDS)
    return not of_this or rested


def _arms(situation: Situation) -> ArmsQuestion | None:
    stable, candidate = situation.stable, situation.candidate
    if stable is None or candidate is None or candidate.analysis_started is None or not arms_due(situation):
        return None
    return ArmsQuestion(stable.revision, candidate.revision, candidate.analysis_started)


def _counters(situation: Situation) -> CountersQuestion | None:
    span = window(situation)
    return CountersQuestion(situation.stable.version, *span) if situation.stable and span else None

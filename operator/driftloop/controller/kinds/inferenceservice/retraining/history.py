"""The retrainings of a service so far: from its jobs, what became of their versions, and its status. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from driftloop.api.inferenceservice import Retraining, RetrainingEnding, RetrainingStatus
from driftloop.controller.kinds.inferenceservice.observed import Job, Observed, Revision, Version
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.kinds.versions import UNJUDGED
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.naming import MAX_RESOURCE_NAME
from driftloop.controller.vocabulary.reasons import UNAVAILABLE

DAY = timedelta(days=1)
WATCH_LAG = timedelta(seconds=60)


@dataclass(frozen=True)
class Basis:
    """A service that may be retrained: it has a stable version, which exists."""

    situation: Situation
    spec: Retraining
    stable: Revision
    serving: Version

    @property
    def observed(self) -> Observed:
        """What was read."""
        return self.situation.observed


@dataclass(frozen=True)
class History:
    """The retrainings so far."""

    in_flight: tuple[Job, ...]
    ordinal: int  # retrainings of this stable version so far; the next one's number
    rejections: int  # of this stable version
    last_finished: datetime | None
    last_created: datetime | None
    last_ending: RetrainingEnding | None
    today: int  # created within a day


def basis_of(situation: Situation) -> Basis | None:
    """None where there is nothing to retrain from."""
    spec, stable, serving = situation.observed.spec.retraining, situation.stable, situation.serving
    if spec is None or stable is None or serving is None:
        return None
    return Basis(situation, spec, stable, serving)


def job_name(service: str, *of: str | int) -> str:
    """At most 40 characters, the same for the same service and `of`: its UID, the stable version's, the ordinal.

    >>> job_name("desk", "uid-of-desk", "uid-of-version", 0)
    'desk-374d9249'
    """
    tail = "-" + hashlib.sha256("\0".join(map(str, of)).encode()).hexdigest()[:8]
    return service[: MAX_RESOURCE_NAME - len(tail)].rstrip("-") + tail


def proposal(basis: Basis, ordinal: int) -> str:
    """Name of this stable version's retraining of that number."""
    return job_name(basis.observed.name, basis.observed.uid, basis.serving.uid, ordinal)


def look_back(basis: Basis) -> History:
    """The history, from the jobs that exist, what became of their versions, and what the status remembers."""
    jobs, now = basis.observed.jobs, basis.situation.now
    known = _remembered(basis)
    names = {job.name for job in jobs}
    ordinal = known.ordinal
    while proposal(basis, ordinal) in names:
        ordinal += 1
    endings = {job.name: ending(basis, job) for job in jobs}
    of_this = {proposal(basis, number) for number in range(ordinal)}
    latest = max(jobs, key=lambda job: (job.created, job.name), default=None)
    return History(
        in_flight=tuple(job for job in jobs if endings[job.name] == "InFlight"),
        ordinal=ordinal,
        rejections=max(known.rejections, sum(1 for name in of_this if endings.get(name) == "Rejected")),
        last_finished=max(_ends(basis, endings), default=None),
        last_created=latest.created if latest else None,
        last_ending=endings[latest.name] if latest else None,
        today=sum(1 for job in jobs if now - job.created < DAY),
    )


def ending(basis: Basis, job: Job) -> RetrainingEnding:
    """What became of a job. In flight until its version serves, was turned down, or was overtaken."""
    if job.phase == "Failed":
        return "Unavailable" if job.reason in UNAVAILABLE else "Rejected"
    version = _version_of(basis, job)
    if version is None:
        return _without_version(job, basis.situation.now)
    if version.name == basis.stable.version:
        return "Promoted"
    # Beside a stable version one that no suite judged is served by nobody.
    if version.phase in ("Rejected", "Failed", "AwaitingApproval"):
        return "Unavailable" if version.phase == "Failed" and version.reason in UNAVAILABLE else "Rejected"
    if version.phase in UNJUDGED:
        return "InFlight"
    if basis.situation.revision_of(version) in basis.situation.failed:
        return "Rejected"
    return "InFlight" if _will_roll_out(basis, version) else "Superseded"


def _remembered(basis: Basis) -> RetrainingStatus:
    """What the status keeps of this stable version's retrainings: jobs may have been deleted since."""
    before = basis.observed.status.retraining
    return before if before and before.version == basis.serving.name else RetrainingStatus()


def _without_version(job: Job, now: datetime) -> RetrainingEnding:
    """Still at work; or done, and somebody deleted what came of it. Jobs and versions come by two watches."""
    settled = job.phase == "Succeeded" and job.finished is not None and now - job.finished > WATCH_LAG
    return "Superseded" if settled else "InFlight"


def _will_roll_out(basis: Basis, version: Version) -> bool:
    pinned = basis.observed.spec.model.version
    return version.name == pinned if pinned else version.age_key > basis.serving.age_key


def _ends(basis: Basis, endings: dict[str, RetrainingEnding]) -> list[datetime]:
    """When retrainings ended: with the verdict on their version or with the job, with a promotion, as remembered."""
    ends = [_finished(basis, job) for job in basis.observed.jobs if endings[job.name] != "InFlight"]
    if "Promoted" in endings.values():
        ends.append(basis.stable.since)
    if remembered := _remembered(basis).last_finished:
        ends.append(parse_timestamp(remembered))
    return ends


def _finished(basis: Basis, job: Job) -> datetime:
    version = _version_of(basis, job)
    times = (job.created, job.finished, version.judged if version else None)
    return max(time for time in times if time is not None)


def _version_of(basis: Basis, job: Job) -> Version | None:
    return next((version for version in basis.observed.versions if version.job_uid == job.uid), None)

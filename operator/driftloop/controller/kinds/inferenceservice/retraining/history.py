"""The history of a service's retrainings, from its jobs, their versions, and its status. Pure."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from driftloop.api.inferenceservice import Retraining, RetrainingEnding, RetrainingStatus
from driftloop.controller.kinds.inferenceservice.observed import Job, Observed, Revision, Version
from driftloop.controller.kinds.inferenceservice.selection import lacks
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.kinds.versions import UNJUDGED
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.naming import MAX_RESOURCE_NAME
from driftloop.controller.vocabulary.reasons import is_unavailable

DAY = timedelta(days=1)
WATCH_LAG = timedelta(seconds=60)
_TURNED_DOWN: tuple[RetrainingEnding | None, ...] = ("Rejected", "NotAccepted")


@dataclass(frozen=True)
class Basis:
    """A service that can be retrained: its stable version has a ModelVersion."""

    situation: Situation  # the facts of this reconcile
    spec: Retraining  # settings of the user
    stable: Revision  # the revision that serves
    serving: Version  # its version, from which the next job starts

    @property
    def observed(self) -> Observed:
        """The objects and metrics that were read."""
        return self.situation.observed


@dataclass(frozen=True)
class History:
    """The retrainings of a service so far."""

    in_flight: tuple[Job, ...]  # jobs that have not ended, or whose version is not decided on
    ordinal: int  # number of retrainings of this stable version so far, and so the number of the next one
    rejections: int  # retrainings of this stable version that were rejected or not accepted
    last_finished: datetime | None  # when the latest retraining ended; the cooldown starts then
    last_created: datetime | None  # when the latest job was created
    last_ending: RetrainingEnding | None  # how the latest retraining ended
    today: int  # jobs that were created within the last 24 hours


def basis_of(situation: Situation) -> Basis | None:
    """The basis of a retraining; None if retraining is off, or there is no version to start from."""
    spec, stable, serving = situation.observed.spec.retraining, situation.stable, situation.serving
    if spec is None or stable is None or serving is None:
        return None
    return Basis(situation, spec, stable, serving)


def job_name(service: str, *parts: str | int) -> str:
    """A name of at most 40 characters; `parts`: UIDs of the service and of its stable version, and the ordinal.

    >>> job_name("desk", "uid-of-desk", "uid-of-version", 0)
    'desk-374d9249'
    """
    tail = "-" + hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:8]
    return service[: MAX_RESOURCE_NAME - len(tail)].rstrip("-") + tail


def proposal(basis: Basis, ordinal: int) -> str:
    """Name of the job for the retraining with that number."""
    return job_name(basis.observed.name, basis.observed.uid, basis.serving.uid, ordinal)


def history_of(basis: Basis) -> History:
    """Read the history from the existing jobs, their versions, and the status."""
    jobs, now = basis.observed.jobs, basis.situation.now
    known = _recorded_status(basis)
    names = {job.name for job in jobs}
    ordinal = known.ordinal
    while proposal(basis, ordinal) in names:
        ordinal += 1
    endings = {job.name: ending(basis, job) for job in jobs}
    own = {proposal(basis, number) for number in range(ordinal)}
    latest = max(jobs, key=lambda job: (job.created, job.name), default=None)
    return History(
        in_flight=tuple(job for job in jobs if endings[job.name] == "InFlight"),
        ordinal=ordinal,
        rejections=max(known.rejections, sum(1 for name in own if endings.get(name) in _TURNED_DOWN)),
        last_finished=max(_ends(basis, endings), default=None),
        last_created=latest.created if latest else None,
        last_ending=endings[latest.name] if latest else None,
        today=sum(1 for job in jobs if now - job.created < DAY),
    )


def ending(basis: Basis, job: Job) -> RetrainingEnding:
    """How a retraining ended. It is InFlight until its version serves, was rejected, or was superseded.

    A version that the service does not take has ended its retraining too: otherwise nothing would be trained any more
    while it waits for a person. It counts as a rejection, so that cooldown and breaker bound what is trained in vain.
    """
    if job.phase == "Failed":
        return "Unavailable" if is_unavailable(job.reason) else "Rejected"
    version = _version_of(basis, job)
    if version is None:
        return _without_version(job, basis.situation.now)
    if version.name == basis.stable.version:
        return "Promoted"
    # A version that no suite judged (AwaitingApproval) never replaces a stable version.
    if version.phase in ("Rejected", "Failed", "AwaitingApproval"):
        return "Unavailable" if version.phase == "Failed" and is_unavailable(version.reason) else "Rejected"
    if version.phase in UNJUDGED:
        return "InFlight"
    if basis.situation.revision_of(version) in basis.situation.failed:
        return "Rejected"
    if not _will_roll_out(basis, version):
        return "NotAccepted" if _awaits_pin(basis, version) else "Superseded"
    return "NotAccepted" if lacks(basis.situation, version) else "InFlight"


def _recorded_status(basis: Basis) -> RetrainingStatus:
    """The status, if it is about this stable version. It counts jobs that may have been deleted since."""
    before = basis.observed.status.retraining
    return before if before and before.version == basis.serving.name else RetrainingStatus()


def _without_version(job: Job, now: datetime) -> RetrainingEnding:
    """The ending of a job without a ModelVersion: it still runs, or its ModelVersion was deleted.

    Jobs and versions arrive by two watches, so a version counts as deleted only after WATCH_LAG.
    """
    settled = job.phase == "Succeeded" and job.finished is not None and now - job.finished > WATCH_LAG
    return "Superseded" if settled else "InFlight"


def _will_roll_out(basis: Basis, version: Version) -> bool:
    pinned = basis.observed.spec.model.version
    return version.name == pinned if pinned else version.age_key > basis.serving.age_key


def _awaits_pin(basis: Basis, version: Version) -> bool:
    """Whether a person may still commit the version: until then it ends no alarm, and each cooldown would train one."""
    return basis.observed.spec.approval == "git" and version.age_key > basis.serving.age_key


def _ends(basis: Basis, endings: dict[str, RetrainingEnding]) -> list[datetime]:
    """When retrainings ended: by a verdict, by the end of a job, by a promotion, or as recorded in the status."""
    ends = [_finished(basis, job) for job in basis.observed.jobs if endings[job.name] != "InFlight"]
    if "Promoted" in endings.values():
        ends.append(basis.stable.since)
    if recorded := _recorded_status(basis).last_finished:
        ends.append(parse_timestamp(recorded))
    return ends


def _finished(basis: Basis, job: Job) -> datetime:
    version = _version_of(basis, job)
    times = (job.created, job.finished, version.judged if version else None)
    return max(time for time in times if time is not None)


def _version_of(basis: Basis, job: Job) -> Version | None:
    return next((version for version in basis.observed.versions if version.job_uid == job.uid), None)

"""Keep the pods of a replica over several nodes together: all of them, or none. Pure.

Only the leader answers users, and only if all workers answer it. So everything that counts, selects or drains pods
counts, selects and drains leaders, and nothing else knows of groups.

- A leader with an address gets its workers. They are its own: Kubernetes deletes them after it, so after its drain.
- If the leader's engine ends, the kubelet starts it again, with its back-off. The old workers can't join it again
  (vLLM's engine accepts no others later), so they are deleted, and the new engine gets new ones.
- If a worker is lost, the engines of the others may wait for it forever. A leader that was ready is deleted at once, so
  that no more requests wait with it. Its Deployment replaces it. One that is starting has a minute to end by itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from driftloop.controller.pods.common import ENGINE
from driftloop.controller.pods.group import nodes_of, worker, worker_name
from driftloop.controller.pods.outcome import overdue_at, started
from driftloop.controller.vocabulary.conditions import find, is_true, parse_timestamp
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import field, has_ended, phase
from driftloop.controller.vocabulary.plan import Create, Delete, Event, Group, Obj
from driftloop.controller.vocabulary.reasons import Reason

# How long a leader that is not ready may take to notice that a worker has ended. It is then replaced without the
# kubelet's back-off, so this also bounds how often.
PATIENCE = timedelta(seconds=60)


@dataclass(frozen=True)
class PodGroup:
    """A leader and its workers."""

    template: Obj  # pod template of the leader
    leader: Obj  # the pod that answers
    workers: tuple[Obj, ...]  # the pods that it owns

    @property
    def name(self) -> str:
        """Name of the leader."""
        return str(self.leader["metadata"]["name"])

    @property
    def progress(self) -> str | None:
        """How many of the pods run their engine; None if all do, or if the leader has ended."""
        nodes = nodes_of(self.template)
        if has_ended(self.leader):
            return None
        there = sum(is_true(field(pod, "status", "conditions") or [], "Ready") for pod in self.workers)
        there += field(_engine(self.leader), "state", "running") is not None
        return f"{there} of {nodes} pods of the group {self.name} run their engine" if there < nodes else None

    @property
    def has_started(self) -> bool:
        """Whether the engines of all of its pods run or have run: a leader alone may wait for a worker's node."""
        pods = (self.leader, *self.workers)
        return len(pods) >= nodes_of(self.template) and all(started(pod, ENGINE) for pod in pods)


@dataclass(frozen=True)
class Keeping:
    """What keeps groups together."""

    groups: tuple[Group, ...] = ()  # actions, independent of each other
    requeue_after: float | None = None  # seconds; None: only a change matters


def groups_of(template: Obj, leaders: Iterable[Obj], workers: Iterable[Obj]) -> tuple[PodGroup, ...]:
    """The groups of all leaders that were created from `template`."""
    known = list(workers)
    return tuple(
        PodGroup(template, leader, tuple(pod for pod in known if controlled_by(pod, leader["metadata"]["uid"])))
        for leader in leaders
    )


def keep_together(groups: Iterable[PodGroup], now: datetime) -> Keeping:
    """Create missing workers, and end groups that have lost a pod."""
    kept = [_keep(group, now) for group in groups]
    waits = [each.requeue_after for each in kept if each.requeue_after is not None]
    return Keeping(tuple(group for each in kept for group in each.groups), min(waits, default=None))


def _keep(group: PodGroup, now: datetime) -> Keeping:
    leader = group.leader
    if has_ended(leader):
        return _delete(group.workers)
    if leader["metadata"].get("deletionTimestamp"):
        return _after_drain(group, now)
    if _has_ended(_engine(leader)):
        return _delete(group.workers)
    if not field(leader, "status", "podIP") or not field(leader, "spec", "nodeName"):
        return Keeping()
    attempt = _engine(leader).get("restartCount") or 0
    names = {worker_name(leader, rank, attempt): rank for rank in range(1, nodes_of(group.template))}
    current = {pod["metadata"]["name"]: pod for pod in group.workers if pod["metadata"]["name"] in names}
    missing = {name: rank for name, rank in names.items() if name not in current}
    if loss := _loss(leader, current.values(), missing):
        return _end(group, loss, now)
    stale = _delete(pod for pod in group.workers if pod["metadata"]["name"] not in names)
    bodies = [worker(group.template, leader, rank, attempt) for rank in missing.values()]
    return Keeping((*stale.groups, *(Group((Create(body),)) for body in bodies)))


def _after_drain(group: PodGroup, now: datetime) -> Keeping:
    """While the leader drains, its streams need the workers. On a lost node it never ends, and they do."""
    overdue = overdue_at(group.leader)
    if overdue is None or now < overdue:
        return Keeping(requeue_after=(overdue - now).total_seconds() if overdue else None)
    return _delete(group.workers)


@dataclass(frozen=True)
class _Loss:
    """A worker that is lost."""

    message: str
    since: datetime | None = None  # from when a leader that is not ready has `PATIENCE`; None: it has none


def _loss(leader: Obj, workers: Iterable[Obj], missing: Iterable[str]) -> _Loss | None:
    """The first worker that the leader's engine has lost, or may have lost."""
    since = _started(leader)
    for pod in workers:
        name, status = pod["metadata"]["name"], _engine(pod)
        if pod["metadata"].get("deletionTimestamp"):
            return _Loss(f"{name} is being deleted")
        if has_ended(pod):
            # A node may refuse each new one: the start of such a group must not be repeated without a pause.
            return _Loss(f"{name} has ended: {field(pod, 'status', 'reason') or phase(pod)}", _created(pod))
        ended = field(status, "state", "terminated") or field(status, "lastState", "terminated")
        if ended and ended.get("finishedAt") and since and parse_timestamp(ended["finishedAt"]) >= since:
            return _Loss(
                f"the engine of {name} exited with {ended.get('exitCode')}", parse_timestamp(ended["finishedAt"])
            )
    return next((_Loss(f"{name} is gone") for name in missing), None) if _was_ready(leader) else None


def _end(group: PodGroup, loss: _Loss, now: datetime) -> Keeping:
    """Delete the leader, and with it the group."""
    if loss.since and not _was_ready(group.leader) and (wait := loss.since + PATIENCE - now) > timedelta(0):
        return Keeping(requeue_after=wait.total_seconds())
    event = Event("Warning", Reason.GROUP_RESTARTED, f"the group {group.name} is restarted: {loss.message}")
    return Keeping((Group((_deletion(group.leader),), events=(event,)),))


def _delete(pods: Iterable[Obj]) -> Keeping:
    ending = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp")]
    return Keeping(tuple(Group((_deletion(pod),)) for pod in ending))


def _deletion(pod: Obj) -> Delete:
    meta = pod["metadata"]
    return Delete("v1", "Pod", meta["namespace"], meta["name"], meta["uid"], meta.get("resourceVersion"))


def _engine(pod: Obj) -> Obj:
    """Status of the engine's container; empty if there is none yet."""
    statuses = [
        *(field(pod, "status", "initContainerStatuses") or []),
        *(field(pod, "status", "containerStatuses") or []),
    ]
    return next((status for status in statuses if status.get("name") == ENGINE), {})


def _has_ended(status: Obj) -> bool:
    """Whether the engine has run and does not run now."""
    state = status.get("state") or {}
    return "terminated" in state or ("waiting" in state and bool(field(status, "lastState", "terminated")))


def _started(leader: Obj) -> datetime | None:
    """When the leader's engine was started; None if it does not run."""
    since = field(_engine(leader), "state", "running", "startedAt")
    return parse_timestamp(since) if since else None


def _created(pod: Obj) -> datetime | None:
    created = field(pod, "metadata", "creationTimestamp")
    return parse_timestamp(created) if created else None


def _was_ready(leader: Obj) -> bool:
    """Whether the leader is ready, since its engine was started: then all of its workers had joined it."""
    ready, began = find(field(leader, "status", "conditions") or [], "Ready") or {}, _started(leader)
    since = ready.get("lastTransitionTime")
    return ready.get("status") == "True" and bool(since and began and parse_timestamp(since) >= began)

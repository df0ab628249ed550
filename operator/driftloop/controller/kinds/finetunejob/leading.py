"""Give a leading pod that no node takes the node of a worker. Pure.

If the node of pod 0 is lost, a new pod 0 needs a node without a pod of the same training. Where no other node is free,
the workers hold all that are left, and wait for pod 0 in vain. With `compute.elastic` one of them makes room: it ends,
the scheduler gives its node to pod 0, which has waited longer, and training goes on with fewer nodes.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from driftloop.api.finetunejob import Elastic
from driftloop.controller.vocabulary.conditions import find, parse_timestamp
from driftloop.controller.vocabulary.labels import INDEX
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import field, labels, phase
from driftloop.controller.vocabulary.plan import Delete, Disrupt, Event, Group, Obj
from driftloop.controller.vocabulary.reasons import Reason

# Between two workers that make room: the scheduler needs some seconds, and the first may have been enough.
_PAUSE = timedelta(seconds=30)


def make_room(train: Obj, pods: Iterable[Obj], elastic: Elastic | None, now: datetime) -> tuple[Group, ...]:
    """Delete a worker if pod 0 of the Job `train` has waited for a node for `elastic.waitSeconds`.

    Only workers that are older than pod 0 make room, so each at most once.
    """
    own = [pod for pod in pods if controlled_by(pod, train["metadata"]["uid"])]
    waiting = ((pod, _waits_since(pod)) for pod in own if _index(pod) == "0")
    lead, since = next(((pod, since) for pod, since in waiting if since is not None), (None, None))
    if elastic is None or lead is None or since is None:
        return ()
    workers = [pod for pod in own if _index(pod) != "0" and phase(pod) in ("Pending", "Running")]
    old = [pod for pod in workers if phase(pod) == "Running" and _created(pod) <= _created(lead)]
    if not old or now - since < timedelta(seconds=elastic.wait_seconds) or _makes_room_now(workers, lead, now):
        return ()
    return (_deletion(max(old, key=lambda pod: int(_index(pod))), lead, now - since),)


def _makes_room_now(workers: Iterable[Obj], lead: Obj, now: datetime) -> bool:
    """Whether a worker is just ending, or its successor is so new that pod 0 may still get its node."""
    return any(
        pod["metadata"].get("deletionTimestamp") or (_created(lead) < _created(pod) and now - _created(pod) < _PAUSE)
        for pod in workers
    )


def _deletion(worker: Obj, lead: Obj, waited: timedelta) -> Group:
    meta = worker["metadata"]
    message = (
        f"{meta['name']} ends, so that its node can take {lead['metadata']['name']}, which has waited for one for "
        f"{waited.total_seconds():.0f} s and leads the training"
    )
    place, uid = (meta["namespace"], meta["name"]), meta["uid"]
    disrupt = Disrupt(*place, uid, message, meta.get("resourceVersion"))
    return Group(
        (disrupt, Delete("v1", "Pod", *place, uid)), events=(Event("Warning", Reason.WORKER_MAKES_ROOM, message),)
    )


def _waits_since(pod: Obj) -> datetime | None:
    """Since when no node takes the pod; None if one has, or if the scheduler has not tried yet."""
    scheduled = find(field(pod, "status", "conditions") or [], "PodScheduled") or {}
    waits = scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable"
    return parse_timestamp(scheduled["lastTransitionTime"]) if waits and phase(pod) == "Pending" else None


def _index(pod: Obj) -> str:
    return labels(pod).get(INDEX) or ""


def _created(pod: Obj) -> datetime:
    return parse_timestamp(pod["metadata"]["creationTimestamp"])

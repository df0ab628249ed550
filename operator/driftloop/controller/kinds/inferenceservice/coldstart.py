"""How long the last pod of a revision took to start, by phase. Pure."""

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise

from driftloop.api.inferenceservice import ColdStart
from driftloop.controller.kinds.inferenceservice.observed import moment
from driftloop.controller.pods.common import ENGINE, FETCH
from driftloop.controller.vocabulary.conditions import find
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj


def cold_start(pods: Iterable[Obj], known: ColdStart | None) -> ColdStart | None:
    """The start of the newest pod that is ready; `known` if it is that pod's, or if no start can be read.

    A pod's time of readiness changes if it becomes ready again later, so the first reading counts.
    """
    ready = [pod for pod in pods if _when(pod, "Ready")]
    newest = max(ready, key=lambda pod: str(pod["metadata"].get("creationTimestamp")), default=None)
    if newest is None or (known and known.pod == newest["metadata"]["name"]):
        return known
    return _measured(newest) or known


def _measured(pod: Obj) -> ColdStart | None:
    """None if a container was restarted before the pod was ready: then the times of its first start are gone."""
    fetch, engine = _container(pod, FETCH), _container(pod, ENGINE)
    if fetch.get("restartCount") or engine.get("restartCount"):
        return None
    moments = (
        moment(pod["metadata"].get("creationTimestamp")),
        _when(pod, "PodScheduled"),
        moment(field(fetch, "state", "terminated", "startedAt")),
        moment(field(fetch, "state", "terminated", "finishedAt")),
        _when(pod, "Ready"),
    )
    known = [moment for moment in moments if moment is not None]
    if len(known) < len(moments) or known != sorted(known):
        return None
    seconds = [int((after - before).total_seconds()) for before, after in pairwise(known)]
    return ColdStart(
        pod=pod["metadata"]["name"],
        total_seconds=sum(seconds),
        node_seconds=seconds[0],
        image_seconds=seconds[1],
        fetch_seconds=seconds[2],
        load_seconds=seconds[3],
    )


def _container(pod: Obj, name: str) -> Obj:
    statuses = field(pod, "status", "initContainerStatuses") or []
    return next((status for status in statuses if status.get("name") == name), {})


def _when(pod: Obj, condition: str) -> datetime | None:
    """When the condition became True; None if it is not."""
    entry = find(field(pod, "status", "conditions") or [], condition) or {}
    return moment(entry.get("lastTransitionTime")) if entry.get("status") == "True" else None

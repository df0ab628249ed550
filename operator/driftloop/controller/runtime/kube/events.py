"""Kubernetes Events on custom resources. They are for people only: nothing depends on them, so one may be lost."""

import hashlib
import logging
from collections import OrderedDict
from datetime import UTC, datetime

from driftloop.api.base import GROUP
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.runtime.metrics import ERRORS
from driftloop.controller.vocabulary.plan import Event, Obj

REPORTER = f"{GROUP}/operator"
REMEMBERED = 10_000
MAX_NOTE = 1024  # the API's limit, in characters

log = logging.getLogger(__name__)


class Recorder:
    """Posts each event once.

    The names of posted events are remembered. After a restart the API server answers AlreadyExists, because the name is
    a hash of the event.
    """

    def __init__(self, api: Api, instance: str) -> None:
        self._api = api
        self._instance = instance
        self._posted: OrderedDict[str, None] = OrderedDict()

    async def record(self, regarding: Obj, event: Event) -> None:
        """Post `event` about `regarding`, unless it was posted before."""
        body = event_object(regarding, event, datetime.now(UTC), self._instance)
        name = body["metadata"]["name"]
        if name in self._posted:
            return
        try:
            await self._api.create(RESOURCES["Event"], body)
        except ApiError as error:
            if error.reason != "AlreadyExists":
                ERRORS.labels("event").inc()
                log.warning("event %s not posted: %s", event.reason, error)
                return
        self._posted[name] = None
        if len(self._posted) > REMEMBERED:
            self._posted.popitem(last=False)


def event_object(regarding: Obj, event: Event, now: datetime, instance: str) -> Obj:
    """An events.k8s.io/v1 Event."""
    metadata = regarding["metadata"]
    identity = "\0".join((metadata["uid"], event.type, event.reason, event.message))
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": metadata["namespace"]},
        "eventTime": now.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "type": event.type,
        "reason": event.reason,
        "note": event.message[:MAX_NOTE],
        "action": "Reconcile",
        "reportingController": REPORTER,
        "reportingInstance": instance,
        "regarding": {
            "apiVersion": regarding["apiVersion"],
            "kind": regarding["kind"],
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }

"""Write alerts into `status.alerts` of the services that they concern, with a separate field manager.

Every replica may write, not only the leader. A write carries the resourceVersion that was read, so if two replicas
have the same alert, one writes it and the other then finds it recorded.
"""

import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from driftloop.api.inferenceservice import AlertSource
from driftloop.controller.alerts.alerts import Alert, merged
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.runtime.metrics import ALERTS
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj

log = logging.getLogger(__name__)
MANAGER = "driftloop-alerts"
SERVICE = RESOURCES["InferenceService"]
TRIES = 8  # a try fails when another writer changes the object at the same time


async def record(api: Api, namespace: str, name: str, alerts: Sequence[Alert], source: AlertSource) -> int:
    """Record `alerts` in the service. Returns how many of them were new. Raises ApiError."""
    for _ in range(TRIES):
        service = await api.get(SERVICE, namespace, name)
        if service is None:
            return 0
        records: list[Obj] = field(service, "status", "alerts") or []
        new = 0
        for alert in alerts:
            if (extended := merged(records, alert, source, datetime.now(UTC))) is not None:
                records, new = extended, new + 1
        if not new:
            ALERTS.labels(source, "known").inc(len(alerts))
            return 0
        try:
            await api.apply(SERVICE, _body(service, records), subresource="status", manager=MANAGER, force=True)
        except ApiError as error:
            if error.code == 409:
                continue
            raise
        ALERTS.labels(source, "recorded").inc(new)
        log.info("%s: recorded %d alerts for %s/%s", source, new, namespace, name)
        return new
    raise ApiError(409, "Conflict", f"InferenceService {namespace}/{name} changed {TRIES} times while recording alerts")


def _body(service: Obj, records: list[Obj]) -> Obj:
    metadata = {key: service["metadata"][key] for key in ("name", "namespace", "uid", "resourceVersion")}
    return {
        "apiVersion": SERVICE.api_version,
        "kind": SERVICE.kind,
        "metadata": metadata,
        "status": {"alerts": records},
    }

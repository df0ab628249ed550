"""The door of a service with scaleToZero: where its requests wait while it has no serving pod. Pure.

The Service leads to the door while stable is marked as not awake (`idle.py`). The door passes requests on by a Service
of its own, which always selects the serving pods.
"""

from driftloop.contract.task import DoorTask
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.kinds.inferenceservice.revision import keys_secret_name
from driftloop.controller.pods.door import DOOR, LINGER_SECONDS, door_template
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.naming import child_name, owner_reference
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj, Settings

RATINGS_PORT = 81  # of the Service by which the door reaches the pods


def door_name(service: Obj) -> str:
    """Name of the door's Deployment."""
    return child_name(service, DOOR)


def pods_name(service: str) -> str:
    """Name of the Service that selects the serving pods while the service's own one may lead to the door."""
    return f"{service}-pods"


def needs_door(observed: Observed) -> bool:
    """Whether the door must run: also without scaleToZero until the service is awake."""
    return observed.spec.scale_to_zero is not None or is_at_door(observed)


def is_at_door(observed: Observed) -> bool:
    """Whether the Service must lead to the door: a revision that serves is marked as not awake."""
    return any(revision.sleep is not None for revision in observed.revisions if revision.role == "stable")


def leads_to_door(observed: Observed) -> bool:
    """Whether the Service, as it was last seen, leads to the door."""
    return any(
        (field(body, "spec", "selector") or {}).get(STAGE) == DOOR
        for body in observed.services
        if body["metadata"]["name"] == observed.name
    )


def door_labels(observed: Observed) -> dict[str, str]:
    """Labels that select the door."""
    return {SERVICE: observed.name, STAGE: DOOR}


def is_door_ready(observed: Observed) -> bool:
    """Whether the door has a ready pod, and a way to the serving pods.

    Another object may have the name of its Service, and would get the requests.
    """
    has_way = any(body["metadata"]["name"] == pods_name(observed.name) for body in observed.services)
    return has_way and bool(field(observed.door or {}, "status", "availableReplicas"))


def door_deployment(observed: Observed, settings: Settings) -> Obj:
    """The Deployment of the door. An upgrade of the operator replaces its pod: the new one starts before it stops."""
    labels = door_labels(observed)
    template = door_template(
        door_task(observed, settings),
        labels=labels,
        settings=settings,
        overrides=observed.spec.pod_overrides,
        keys_secret=keys_secret_name(observed.service),
    )
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": door_name(observed.service),
            "namespace": observed.namespace,
            "labels": {**settings.labels, **labels},
            "ownerReferences": [owner_reference(observed.service)],
        },
        "spec": {
            "replicas": 1,
            "revisionHistoryLimit": 0,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels},
            "template": template,
        },
    }


def door_task(observed: Observed, settings: Settings) -> DoorTask:
    """The task of the door."""
    spec = observed.spec
    hold = spec.scale_to_zero.hold_seconds if spec.scale_to_zero else spec.drain_seconds
    # The dot at the end saves look-ups in the search domains.
    url = f"http://{pods_name(observed.name)}.{observed.namespace}.svc.{settings.cluster_domain}."
    return DoorTask(
        service=observed.name,
        pods_url=url,
        ratings_url=f"{url}:{RATINGS_PORT}" if spec.feedback else None,
        hold_seconds=hold,
        linger_seconds=LINGER_SECONDS,
        drain_seconds=LINGER_SECONDS + max(hold, spec.drain_seconds),
        request_timeout_seconds=spec.request_timeout_seconds,
        allowed_origins=tuple(spec.allowed_origins),
        api_keys_secret=spec.api_keys.name if spec.api_keys else None,
    )

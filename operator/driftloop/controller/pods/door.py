"""The pod that holds the requests of a service that is asleep: the proxy's listener without an engine. Pure."""

from collections.abc import Mapping
from typing import Any

from driftloop.api.base import PodOverrides
from driftloop.contract.names import API_KEYS_DIR
from driftloop.contract.task import DoorTask
from driftloop.controller.pods.common import (
    LOST_NODE_TOLERATIONS,
    pod_metadata,
    pod_spec,
    restricted_container,
    scratch,
    task_env,
)
from driftloop.controller.pods.serving import (
    API,
    API_KEYS,
    FEEDBACK,
    GRACE_MARGIN_SECONDS,
    HELPER,
    TOKEN,
    TOKEN_VARIABLE,
    secret_variable,
)
from driftloop.controller.vocabulary.labels import STAGE
from driftloop.controller.vocabulary.plan import Obj, Settings

DOOR = "door"  # value of the label STAGE
# A door that is evicted still gets all requests until another one is ready. Its image is usually on the node.
LINGER_SECONDS = 20


def door_template(
    task: DoorTask, *, labels: Mapping[str, str], settings: Settings, overrides: PodOverrides, keys_secret: str
) -> Obj:
    """The pod template of the door's Deployment."""
    volumes, mounts = scratch()
    if task.api_keys_secret:
        # Optional, so that the door starts and names what is missing.
        volumes.append({"name": API_KEYS, "secret": {"secretName": task.api_keys_secret, "optional": True}})
        mounts.append({"name": API_KEYS, "mountPath": API_KEYS_DIR, "readOnly": True})
    ports = {API: task.api_port} | ({FEEDBACK: task.feedback_port} if task.ratings_url else {})
    container = restricted_container(
        DOOR,
        settings.server_image,
        ["python", "-m", "driftloop_server.door"],
        settings=settings,
        env=[*task_env(task), *(_token(keys_secret) if task.ratings_url else [])],
        ports=ports | {"metrics": task.metrics_port},
        resources=HELPER,
        mounts=mounts,
    )
    own = _of_any_node(overrides)
    spec = pod_spec(
        [container | _probes(task)],
        volumes=volumes,
        overrides=own,
        grace_seconds=task.drain_seconds + GRACE_MARGIN_SECONDS,
        tolerations=LOST_NODE_TOLERATIONS,
    )
    return {"metadata": pod_metadata({**labels, STAGE: DOOR}, own, settings), "spec": spec}


def _token(secret: str) -> list[Obj]:
    """With the token the door refuses ratings of others, so that they don't wake the service."""
    return [secret_variable(TOKEN_VARIABLE, secret, TOKEN)]


def _of_any_node(overrides: PodOverrides) -> PodOverrides:
    """The overrides without those that choose a node with GPUs: the door would keep it from being removed."""
    chosen: dict[str, Any] = {"node_selector": {}, "affinity": None, "topology_spread_constraints": []}
    return overrides.model_copy(update=chosen | {"runtime_class_name": None, "scheduler_name": None})


def _probes(task: DoorTask) -> Obj:
    def get(period: int, failures: int) -> Obj:
        return {
            "httpGet": {"path": "/healthz", "port": task.metrics_port},
            "periodSeconds": period,
            "failureThreshold": failures,
            "timeoutSeconds": 5,
        }

    return {"startupProbe": get(1, 120), "readinessProbe": get(3, 2), "livenessProbe": get(20, 6)}

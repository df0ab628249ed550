"""The objects beside the Deployments: Services, keys, disruption budget, network policy. Pure.

None of them depends on a revision, so that a rollout changes only Deployments.
"""

from typing import assert_never

from driftloop.contract.names import API_PORT, API_TLS_PORT, FEEDBACK_PORT, FEEDBACK_TLS_PORT, METRICS_PORT
from driftloop.controller.kinds.inferenceservice.door import (
    RATINGS_PORT,
    door_deployment,
    door_labels,
    is_at_door,
    needs_door,
    pods_name,
)
from driftloop.controller.kinds.inferenceservice.gateway import is_allowed
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision
from driftloop.controller.kinds.inferenceservice.revision import keys_secret_name, shadow_name
from driftloop.controller.kinds.inferenceservice.route import canary_name, http_route
from driftloop.controller.pods.door import DOOR
from driftloop.controller.pods.group import peers, worker_stage
from driftloop.controller.pods.serving import API, FEEDBACK, SERVE, SIGNING_KEY, TOKEN, tls_port
from driftloop.controller.vocabulary.labels import REVISION, SERVICE, STAGE
from driftloop.controller.vocabulary.naming import child_name, controlled_by, owner_reference
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Action, Apply, Delete, Obj, Settings
from driftloop.controller.vocabulary.world import RouteUnknown


def first_children(observed: Observed, settings: Settings, only: str | None = None) -> tuple[Action, ...]:
    """The objects that must exist before the first pod: the NetworkPolicies and the Service.

    `only`: the revision that has all users, while another one is hidden.
    """
    policies = [
        network_policy(observed, settings),
        *([workers_policy(observed, settings)] if observed.has_groups else []),
    ]
    return *(Apply(body) for body in policies), Apply(service(observed, settings, only))


def other_children(
    observed: Observed, settings: Settings, only: str | None = None, shadow: str | None = None
) -> tuple[Action, ...]:
    """All other objects. The feedback Service is deleted when the spec no longer has feedback.

    `shadow`: the hidden revision that takes copies of requests; without one its Service is deleted.
    """
    feedback = [feedback_service(observed, settings, only)] if observed.spec.feedback is not None else []
    copies = [shadow_service(observed, settings, shadow)] if shadow else []
    door = [door_deployment(observed, settings), pods_service(observed, settings, only)] if needs_door(observed) else []
    wanted = {observed.name, *(body["metadata"]["name"] for body in (*feedback, *copies, *door))}
    if observed.spec.gateway or observed.route:
        wanted.add(canary_name(observed.name))
    return (
        *(Apply(body) for body in (*feedback, *copies, *door, disruption_budget(observed, settings))),
        *(_delete(body) for body in observed.services if body["metadata"]["name"] not in wanted),
        *([_delete(observed.door)] if observed.door and not door else []),
    )


def routing(observed: Observed, settings: Settings, weight: int, revision: str | None) -> tuple[Action, ...]:
    """The route of a service with a Gateway, and the Service of its candidate; else the deletion of the route.

    `weight`: percent of the requests for the candidate. `revision`: what the candidate's Service selects.

    The route comes first: it stops to name the candidate before the Service stops to select it. Without a Gateway in
    the spec, the Service is deleted once the route is gone (`other_children`).
    """
    gateway = observed.spec.gateway
    if gateway is None or not is_allowed(observed, gateway, settings):
        return _without_route(observed)
    canary = Apply(_service(observed, settings, canary_name(observed.name), API, _selector(observed, revision)))
    match observed.route:
        case RouteUnknown():
            return (canary,)
        case dict() | None:
            return Apply(http_route(observed, gateway, settings, weight)), canary
        case never:
            assert_never(never)


def _without_route(observed: Observed) -> tuple[Action, ...]:
    match observed.route:
        case dict() as route if controlled_by(route, observed.uid):
            return (_delete(route),)
        case dict() | RouteUnknown() | None:
            return ()
        case never:
            assert_never(never)


def pod_labels(observed: Observed) -> dict[str, str]:
    """Labels that select the serving pods of all revisions. The stage excludes the pods of an evaluation."""
    return {SERVICE: observed.name, STAGE: SERVE}


def url(observed: Observed, stable: Revision | None, settings: Settings) -> str:
    """The URL of the service inside the cluster: that of `stable`, else of the pods that the spec asks for."""
    is_https = stable.has_tls if stable else observed.spec.tls is not None
    return f"{'https' if is_https else 'http'}://{observed.name}.{observed.namespace}.svc.{settings.cluster_domain}"


def service(observed: Observed, settings: Settings, only: str | None = None) -> Obj:
    """The Service to which users send requests. `only`: the one revision that it selects."""
    return _service(observed, settings, observed.name, API, _entrance(observed, only))


def pods_service(observed: Observed, settings: Settings, only: str | None = None) -> Obj:
    """The Service by which the door reaches the pods."""
    body = _service(observed, settings, pods_name(observed.name), API, _selector(observed, only))
    ratings = _port(FEEDBACK, RATINGS_PORT, FEEDBACK) | {"appProtocol": "http"}
    return body | {"spec": body["spec"] | {"ports": [*body["spec"]["ports"], ratings]}}


def feedback_service(observed: Observed, settings: Settings, only: str | None = None) -> Obj:
    """The Service that receives corrections, separate from the API so that it can be exposed to other clients."""
    return _service(observed, settings, f"{observed.name}-feedback", FEEDBACK, _entrance(observed, only))


def shadow_service(observed: Observed, settings: Settings, revision: str) -> Obj:
    """The Service to which stable's pods send copies of requests."""
    return _service(observed, settings, shadow_name(observed), API, _selector(observed, revision))


def selects_all(observed: Observed) -> bool:
    """Whether the service's Service, as it was last seen, selects the pods of all revisions."""
    return not any(
        REVISION in field(body, "spec", "selector")
        for body in observed.services
        if body["metadata"]["name"] == observed.name
    )


def keys_secret(observed: Observed) -> Obj:
    """The Secret with the signing key of response ids and the feedback port's token. The operator never reads it."""
    return _object(
        observed,
        "v1",
        "Secret",
        keys_secret_name(observed.service),
        {"stringData": {SIGNING_KEY: observed.keys.signing_key, TOKEN: observed.keys.token}, "type": "Opaque"},
    )


def disruption_budget(observed: Observed, settings: Settings) -> Obj:
    """Allows the eviction of one pod at a time, over all revisions.

    By default, pods that are not Ready can block a node's drain: https://github.com/kubernetes/kubernetes/pull/113375
    """
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": pod_labels(observed)},
    }
    name = child_name(observed.service, "pods")
    return _object(observed, "policy/v1", "PodDisruptionBudget", name, {"spec": spec}, settings)


def network_policy(observed: Observed, settings: Settings) -> Obj:
    """Allows the API from anywhere, corrections and metrics from inside the cluster, and no access to the engine.

    Except for workers: vLLM's engines connect to each other on ports that they choose.
    """
    inside: list[Obj] = [{"namespaceSelector": {}}]
    workers: list[Obj] = [{"podSelector": {"matchLabels": _worker_labels(observed)}}]
    spec = {
        "podSelector": _pods_and_door(observed),
        "policyTypes": ["Ingress"],
        "ingress": [
            {"ports": _tcp(API_PORT, API_TLS_PORT)},
            {"from": inside, "ports": _tcp(FEEDBACK_PORT, FEEDBACK_TLS_PORT, METRICS_PORT)},
            *([{"from": workers}] if observed.has_groups else []),
        ],
    }
    name = child_name(observed.service, "pods")
    return _object(observed, "networking.k8s.io/v1", "NetworkPolicy", name, {"spec": spec}, settings)


def _pods_and_door(observed: Observed) -> Obj:
    if not needs_door(observed):
        return {"matchLabels": pod_labels(observed)}
    stages = {"key": STAGE, "operator": "In", "values": [SERVE, DOOR]}
    return {"matchLabels": {SERVICE: observed.name}, "matchExpressions": [stages]}


def workers_policy(observed: Observed, settings: Settings) -> Obj:
    """Lets only leaders and workers of the service reach its workers, whose engines execute what they are sent."""
    spec = {
        "podSelector": {"matchLabels": _worker_labels(observed)},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": peers({SERVICE: observed.name}, SERVE)}]}],
    }
    name = child_name(observed.service, "workers")
    return _object(observed, "networking.k8s.io/v1", "NetworkPolicy", name, {"spec": spec}, settings)


def _worker_labels(observed: Observed) -> dict[str, str]:
    return {SERVICE: observed.name, STAGE: worker_stage(SERVE)}


def _delete(body: Obj) -> Delete:
    kind, meta = (body["apiVersion"], body["kind"]), body["metadata"]
    return Delete(*kind, meta["namespace"], meta["name"], meta["uid"], meta.get("resourceVersion"))


def _tcp(*ports: int) -> list[Obj]:
    return [{"protocol": "TCP", "port": port} for port in ports]


def _entrance(observed: Observed, only: str | None) -> dict[str, str]:
    """What selects the pods that users reach: the door while the service is not awake."""
    return door_labels(observed) if is_at_door(observed) else _selector(observed, only)


def _selector(observed: Observed, revision: str | None) -> dict[str, str]:
    """What selects the serving pods; those of one revision only, if one is named."""
    return pod_labels(observed) | ({REVISION: revision} if revision else {})


def _service(observed: Observed, settings: Settings, name: str, target: str, selector: dict[str, str]) -> Obj:
    """A Service whose targets are ports by name, so that pods with and without HTTPS can be behind it.

    While a rollout changes between HTTP and HTTPS, both ports are served, each by the pods that have it.
    """
    ports = [_port("http", 80, target)]
    if observed.spec.tls or any(revision.has_tls for revision in observed.revisions):
        ports.append(_port("https", 443, tls_port(target)))
    spec = {"type": "ClusterIP", "selector": selector, "ports": ports}
    return _object(observed, "v1", "Service", name, {"spec": spec}, settings)


def _port(scheme: str, port: int, target: str) -> Obj:
    return {"name": scheme, "port": port, "targetPort": target, "protocol": "TCP", "appProtocol": scheme}


def _object(
    observed: Observed, api_version: str, kind: str, name: str, content: Obj, settings: Settings | None = None
) -> Obj:
    labels = {**(settings.labels if settings else {}), SERVICE: observed.name}
    metadata = {
        "name": name,
        "namespace": observed.namespace,
        "labels": labels,
        "ownerReferences": [owner_reference(observed.service)],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **content}

"""The door's objects, and when they exist."""

from dataclasses import replace

from driftloop.controller.kinds.inferenceservice.children import (
    disruption_budget,
    feedback_service,
    network_policy,
    other_children,
)
from driftloop.controller.kinds.inferenceservice.children import service as api_service
from driftloop.controller.kinds.inferenceservice.door import door_deployment, door_task, leads_to_door
from driftloop.controller.kinds.inferenceservice.observed import Observed, Sleep
from driftloop.controller.kinds.inferenceservice.revision import revision_of
from driftloop.controller.kinds.inferenceservice.route import http_route
from driftloop.controller.vocabulary.labels import SERVICE, STAGE
from driftloop.controller.vocabulary.plan import Apply, Delete, Obj
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, revision, service, version

SPEC: Obj = {"scaleToZero": {"holdSeconds": 120}, "drainSeconds": 40, "requestTimeoutSeconds": 600}


def applied(observed: Observed) -> dict[str, Obj]:
    bodies = [action.body for action in other_children(observed, SETTINGS) if isinstance(action, Apply)]
    return {f"{body['kind']}/{body['metadata']['name']}": body for body in bodies}


def selects(selector: Obj, labels: dict[str, str]) -> bool:
    """Whether a NetworkPolicy's podSelector selects a pod."""
    stages = [value for entry in selector.get("matchExpressions", []) for value in entry["values"]]
    return selector["matchLabels"].items() <= labels.items() and (not stages or labels[STAGE] in stages)


def test_a_service_has_a_door_and_a_service_for_it_only_if_it_may_sleep() -> None:
    found = applied(service(SPEC))
    door = found[f"Deployment/{door_deployment(service(SPEC), SETTINGS)['metadata']['name']}"]
    assert door["spec"]["replicas"] == 1
    assert found["Service/desk-pods"]["spec"]["selector"] == {SERVICE: "desk", STAGE: "serve"}
    assert {name.split("/")[0] for name in applied(service())} == {"PodDisruptionBudget"}


def test_the_service_leads_to_the_door_by_the_port_that_clients_know() -> None:
    observed = service(SPEC)
    stable = revision(observed, version("v1"), "stable", 0, sleep=Sleep("Asleep", NOW))
    asleep = replace(observed, revisions=(stable,))
    spec = api_service(asleep, SETTINGS)["spec"]
    assert (spec["selector"], spec["ports"][0]["port"]) == ({SERVICE: "desk", STAGE: "door"}, 80)
    pod = door_deployment(asleep, SETTINGS)["spec"]["template"]
    assert spec["selector"].items() <= pod["metadata"]["labels"].items()
    assert spec["ports"][0]["targetPort"] in {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    seen = api_service(asleep, SETTINGS)
    assert leads_to_door(replace(asleep, services=(seen,)))
    assert not leads_to_door(replace(asleep, services=(api_service(observed, SETTINGS),)))


def test_ratings_take_the_same_way() -> None:
    observed = service(SPEC | {"feedback": {"storage": "pvc://corrections/desk"}})
    stable = revision(observed, version("v1"), "stable", 0, sleep=Sleep("Asleep", NOW))
    asleep = replace(observed, revisions=(stable,))
    assert feedback_service(asleep, SETTINGS)["spec"]["selector"] == {SERVICE: "desk", STAGE: "door"}
    assert door_task(asleep, SETTINGS).ratings_url == "http://desk-pods.team.svc.cluster.local.:81"
    assert door_task(service(SPEC), SETTINGS).ratings_url is None
    ports = applied(asleep)["Service/desk-pods"]["spec"]["ports"]
    assert {port["port"]: port["targetPort"] for port in ports} == {80: "api", 81: "feedback"}


def test_the_network_policy_covers_the_door_and_the_budget_does_not_as_it_would_block_drains() -> None:
    labels = {SERVICE: "desk", STAGE: "door"}
    assert selects(network_policy(service(SPEC), SETTINGS)["spec"]["podSelector"], labels)
    assert selects(network_policy(service(SPEC), SETTINGS)["spec"]["podSelector"], labels | {STAGE: "serve"})
    assert not selects(network_policy(service(), SETTINGS)["spec"]["podSelector"], labels)
    budget = disruption_budget(service(SPEC), SETTINGS)["spec"]["selector"]["matchLabels"]
    assert not budget.items() <= labels.items()


def test_a_door_that_nobody_needs_any_more_goes() -> None:
    door = door_deployment(service(SPEC), SETTINGS)
    door["metadata"]["uid"] = "uid-door"
    left = replace(service(), door=door)
    [gone] = [action for action in other_children(left, SETTINGS) if isinstance(action, Delete)]
    assert (gone.kind, gone.name, gone.uid) == ("Deployment", door["metadata"]["name"], "uid-door")
    needed = replace(left, spec=service(SPEC).spec)
    assert not any(isinstance(action, Delete) for action in other_children(needed, SETTINGS))


def test_the_door_reaches_the_pods_by_their_own_service_and_holds_as_long_as_the_spec_says() -> None:
    task = door_task(service(SPEC | {"apiKeys": {"name": "keys"}}), SETTINGS)
    assert task.pods_url == "http://desk-pods.team.svc.cluster.local."
    assert (task.hold_seconds, task.request_timeout_seconds, task.api_keys_secret) == (120, 600, "keys")
    assert task.drain_seconds > 120


def test_a_gateway_waits_for_the_start_of_a_pod_too() -> None:
    observed = service(SPEC | {"gateway": {"name": "edge"}})
    assert observed.spec.gateway
    [rule] = http_route(observed, observed.spec.gateway, SETTINGS, 0)["spec"]["rules"]
    assert rule["timeouts"] == {"request": "720s"}


def test_pods_are_the_same_with_and_without_it() -> None:
    """So that no pod restarts when it is set."""
    assert revision_of(service(SPEC), version("v1"), SETTINGS) == revision_of(
        service({"drainSeconds": 40, "requestTimeoutSeconds": 600}), version("v1"), SETTINGS
    )

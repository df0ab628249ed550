"""What the status of an HTTPRoute says about the requests of a service."""

from dataclasses import replace
from typing import Any

import pytest

from driftloop.controller.kinds.inferenceservice.gateway import route_state
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.vocabulary.reasons import Reason
from driftloop.controller.vocabulary.world import RouteUnknown
from unit.controller.kinds.inferenceservice.builders import SETTINGS, carried, service

GATEWAY = {"gateway": {"name": "public"}}
SHARED = {"gateway": {"name": "public", "namespace": "edge", "hostnames": ["desk.example.org"]}}
CANARY = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "desk-canary"}}
OWNED = carried({"kind": "Gateway", "name": "public"})


def answer(parent: Any = None, **statuses: Any) -> Any:
    """One controller's answer about a route of generation 2."""
    wanted = {"Accepted": "True", "ResolvedRefs": "True"} | statuses
    conditions = [
        {"type": kind, "status": status, "reason": f"{kind}Reason", "message": "why", "observedGeneration": 2}
        for kind, status in wanted.items()
        if status
    ]
    return {"parentRef": {"kind": "Gateway", "name": "public"} | (parent or {}), "conditions": conditions}


def observed(*answers: Any, spec: Any = None, **metadata: Any) -> Observed:
    """The service with the answers about its route."""
    route = OWNED | {"metadata": OWNED["metadata"] | metadata, "status": {"parents": list(answers)}}
    return service(spec or GATEWAY, route=route, services=(CANARY,))


def test_without_a_gateway_there_is_nothing_to_say() -> None:
    assert route_state(service(), SETTINGS) is None


def test_an_accepted_route_whose_backends_are_found_is_in_no_ones_way() -> None:
    state = route_state(observed(answer()), SETTINGS)
    assert state is not None
    assert (state.status, state.reason, state.obstacle) == ("True", Reason.ROUTE_ACCEPTED, None)


@pytest.mark.parametrize(
    ("found", "status", "reason"),
    [
        (service(GATEWAY, services=(CANARY,)), "Unknown", Reason.ROUTE_PENDING),
        (replace(observed(answer()), services=()), "Unknown", Reason.ROUTE_PENDING),
        (replace(observed(), route=RouteUnknown(Reason.GATEWAY_FORBIDDEN, "no")), "Unknown", Reason.GATEWAY_FORBIDDEN),
        (observed(), "Unknown", Reason.ROUTE_PENDING),
        (observed(answer({"name": "another"})), "Unknown", Reason.ROUTE_PENDING),
        (observed(answer({"namespace": "elsewhere"})), "Unknown", Reason.ROUTE_PENDING),
        (observed(answer({"sectionName": "http"})), "Unknown", Reason.ROUTE_PENDING),
        (observed(answer(Accepted="False")), "False", Reason.ROUTE_REFUSED),
        (observed(answer(ResolvedRefs="False")), "False", Reason.ROUTE_REFUSED),
        (observed(answer(Accepted="Unknown")), "Unknown", Reason.ROUTE_PENDING),
        (observed(answer(ResolvedRefs=None)), "Unknown", Reason.ROUTE_PENDING),
        (observed(answer(), ownerReferences=[]), "False", Reason.NAME_TAKEN),
        (observed(answer({"namespace": "edge"}), spec=SHARED), "False", Reason.GATEWAY_NOT_ALLOWED),
    ],
)
def test_what_is_not_known_to_be_accepted_is_an_obstacle(found: Observed, status: str, reason: Reason) -> None:
    state = route_state(found, SETTINGS)
    assert state is not None
    assert (state.status, state.reason) == (status, reason)
    assert state.obstacle == state.message


def test_an_answer_about_an_older_content_keeps_the_condition_and_is_an_obstacle() -> None:
    state = route_state(observed(answer(), generation=3), SETTINGS)
    assert state is not None
    assert (state.status, state.is_current) == ("True", False)
    assert "has not taken over" in (state.obstacle or "")


def test_a_gateway_of_another_namespace_needs_the_administrators_permission() -> None:
    found = observed(answer({"namespace": "edge"}), spec=SHARED)
    refused, allowed = (route_state(found, replace(SETTINGS, gateway_namespaces=names)) for names in ((), ("edge",)))
    assert refused is not None
    assert refused.is_stuck
    assert "gatewayNamespaces" in refused.message
    assert allowed is not None
    assert allowed.obstacle is None


def test_defaults_that_the_api_server_filled_in_are_the_same_gateway() -> None:
    full = {"group": "gateway.networking.k8s.io", "namespace": "team"}
    state = route_state(observed(answer(full)), SETTINGS)
    assert state is not None
    assert state.obstacle is None

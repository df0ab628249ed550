"""Whether the Gateway of a service carries its requests, from the status of its HTTPRoute. Pure.

A candidate gets no further step while this is not known: a route that nobody has accepted brings no requests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from driftloop.api.gateway import GatewayRef
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.kinds.inferenceservice.route import GROUP, canary_name, parent_ref
from driftloop.controller.vocabulary.naming import controlled_by
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.reasons import Reason
from driftloop.controller.vocabulary.world import RouteUnknown

_NEEDED = ("Accepted", "ResolvedRefs")
# Only a person can change these.
_STUCK = (Reason.GATEWAY_NOT_ALLOWED, Reason.GATEWAY_API_MISSING, Reason.GATEWAY_FORBIDDEN, Reason.NAME_TAKEN)


@dataclass(frozen=True)
class RouteState:
    """What the Gateway says about the route."""

    status: Literal["True", "False", "Unknown"]  # whether the Gateway carries the service's requests
    reason: Reason
    message: str
    is_current: bool = False  # whether that is about the route's newest content

    @property
    def is_stuck(self) -> bool:
        """Whether it stays so until a person acts."""
        return self.reason in _STUCK

    @property
    def obstacle(self) -> str | None:
        """Why a candidate gets no further step; None: nothing is in the way."""
        return None if self.status == "True" and self.is_current else self.message


def is_allowed(observed: Observed, gateway: GatewayRef, settings: Settings) -> bool:
    """Whether the service may name this Gateway."""
    return gateway.namespace in (None, observed.namespace, *settings.gateway_namespaces)


def route_state(observed: Observed, settings: Settings) -> RouteState | None:
    """The state of the service's route; None without a Gateway in the spec."""
    gateway = observed.spec.gateway
    if gateway is None:
        return None
    if not is_allowed(observed, gateway, settings):
        return RouteState("False", Reason.GATEWAY_NOT_ALLOWED, _not_allowed(observed, gateway))
    if not any(body["metadata"]["name"] == canary_name(observed.name) for body in observed.services):
        # Another object may have this name, and get the candidate's requests.
        message = f"the Service {canary_name(observed.name)} is not written yet, or belongs to another owner"
        return RouteState("Unknown", Reason.ROUTE_PENDING, message)
    match observed.route:
        case RouteUnknown(reason, message):
            return RouteState("Unknown", reason, message)
        case None:
            return RouteState("Unknown", Reason.ROUTE_PENDING, "the HTTPRoute is not written yet")
        case route if not controlled_by(route, observed.uid):
            message = f"an HTTPRoute {observed.name} exists that does not belong to this service: rename or delete it"
            return RouteState("False", Reason.NAME_TAKEN, message)
        case route:
            return _answered(route, gateway, observed.namespace)


def _not_allowed(observed: Observed, gateway: GatewayRef) -> str:
    return (
        f"spec.gateway names a Gateway of the namespace {gateway.namespace}: name one of {observed.namespace}, or let "
        f"an administrator add {gateway.namespace} to the operator's --gateway-namespaces (gatewayNamespaces)"
    )


def _answered(route: Obj, gateway: GatewayRef, namespace: str) -> RouteState:
    """What the Gateway's controller has written into the route's status."""
    name = f"Gateway {gateway.namespace or namespace}/{gateway.name}"
    answers = [parent for parent in _parents(route) if _is_about(parent, gateway, namespace)]
    if not answers:
        message = f"nobody has accepted the HTTPRoute for {name}: check that it exists and that its controller runs"
        return RouteState("Unknown", Reason.ROUTE_PENDING, message)
    conditions = [_condition(answer, kind) for answer in answers for kind in _NEEDED]
    for kind, found in zip(_NEEDED * len(answers), conditions, strict=True):
        if found.get("status") != "True":
            words = f"{found.get('reason')}: {found.get('message')}" if found else "not reported"
            message = f"{name}: {kind} of the HTTPRoute is not True ({words})"
            if found.get("status") == "False":
                return RouteState("False", Reason.ROUTE_REFUSED, message)
            return RouteState("Unknown", Reason.ROUTE_PENDING, message)
    generation = route["metadata"].get("generation", 0)
    if any((found.get("observedGeneration") or 0) < generation for found in conditions):
        message = f"{name} has not taken over the newest content of the HTTPRoute yet"
        return RouteState("True", Reason.ROUTE_ACCEPTED, message)
    return RouteState("True", Reason.ROUTE_ACCEPTED, f"{name} carries the requests", is_current=True)


def _parents(route: Obj) -> Sequence[Any]:
    return field(route, "status", "parents") or []


def _is_about(parent: Any, gateway: GatewayRef, namespace: str) -> bool:
    """Whether an answer is about the reference in the spec. Defaults may have been filled in."""
    defaults = {"group": GROUP, "kind": "Gateway", "namespace": namespace, "sectionName": None}
    found, wanted = (defaults | ref for ref in (field(parent, "parentRef") or {}, parent_ref(gateway)))
    return all(found.get(key) == wanted.get(key) for key in (*defaults, "name"))


def _condition(parent: Any, kind: str) -> Obj:
    conditions = field(parent, "conditions") or []
    return next((entry for entry in conditions if entry.get("type") == kind), {})

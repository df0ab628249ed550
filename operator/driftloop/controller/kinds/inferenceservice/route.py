"""The HTTPRoute of a service with a Gateway. Pure.

Without a candidate the route has one rule, and sends every request to the service's Service. While a candidate has a
weight, further rules come first:

- a client that names an arm in the header VERSION_HEADER gets this arm. The proxy does not count such requests for the
  comparison, as clients that choose are no sample of all clients;
- a client that sends a bucket in the header BUCKET_HEADER, 0 to 99, always gets the same arm during a step: the
  candidate if the bucket is below the weight. A user that was with the candidate stays there in the next step. Whoever
  sends the header computes the bucket, as hash(user) % 100: Gateway API can't hash a header, and its cookies
  (sessionPersistence) are experimental, and most clients of an API keep none.

All rules need only matches that every implementation must support.
"""

from collections.abc import Iterator, Sequence

from driftloop.api.gateway import GatewayRef
from driftloop.contract.names import BUCKET_HEADER, VERSION_HEADER
from driftloop.controller.kinds.inferenceservice.observed import Observed
from driftloop.controller.vocabulary.labels import SERVICE
from driftloop.controller.vocabulary.naming import owner_reference
from driftloop.controller.vocabulary.plan import Obj, Settings

API_VERSION, KIND = "gateway.networking.k8s.io/v1", "HTTPRoute"
GROUP = "gateway.networking.k8s.io"
BUCKETS = 100
MATCHES = 64  # largest number of matches in a rule


def canary_name(service: str) -> str:
    """Name of the Service of the candidate, or of stable while there is no ready candidate."""
    return f"{service}-canary"


def http_route(observed: Observed, gateway: GatewayRef, settings: Settings, weight: int) -> Obj:
    """The route. `weight`: percent of the requests that go to the candidate; 0: it is not mentioned.

    The timeout is set because some implementations end a long answer after 15 seconds by default.
    """
    rules = [*_chosen(observed), *_buckets(observed, weight)] if weight else []
    held = observed.spec.scale_to_zero.hold_seconds if observed.spec.scale_to_zero else 0
    timeouts = {"request": f"{observed.spec.request_timeout_seconds + held}s"}
    spec = {
        "parentRefs": [parent_ref(gateway)],
        **({"hostnames": gateway.hostnames} if gateway.hostnames else {}),
        "rules": [rule | {"timeouts": timeouts} for rule in (*rules, _shares(observed, weight))],
    }
    metadata = {
        "name": observed.name,
        "namespace": observed.namespace,
        "labels": {**settings.labels, SERVICE: observed.name},
        "ownerReferences": [owner_reference(observed.service)],
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def parent_ref(gateway: GatewayRef) -> Obj:
    """The reference to the Gateway."""
    optional = {"namespace": gateway.namespace, "sectionName": gateway.section_name}
    named = {"group": GROUP, "kind": "Gateway", "name": gateway.name}
    return named | {key: value for key, value in optional.items() if value is not None}


def _shares(observed: Observed, weight: int) -> Obj:
    # A backend with weight 0 still got requests from some implementations, so it is left out.
    arms = ((observed.name, 100 - weight), (canary_name(observed.name), weight))
    return _rule([{}], [_backend(name, share) for name, share in arms if share])


def _chosen(observed: Observed) -> Iterator[Obj]:
    for arm, name in (("candidate", canary_name(observed.name)), ("stable", observed.name)):
        yield _rule([_header(VERSION_HEADER, arm)], [_backend(name)])


def _buckets(observed: Observed, weight: int) -> Iterator[Obj]:
    for name, buckets in ((canary_name(observed.name), range(weight)), (observed.name, range(weight, BUCKETS))):
        for first in range(0, len(buckets), MATCHES):
            some = buckets[first : first + MATCHES]
            yield _rule([_header(BUCKET_HEADER, str(bucket)) for bucket in some], [_backend(name)])


def _rule(matches: Sequence[Obj], backends: Sequence[Obj]) -> Obj:
    path = {"path": {"type": "PathPrefix", "value": "/"}}
    return {"matches": [path | match for match in matches], "backendRefs": list(backends)}


def _header(name: str, value: str) -> Obj:
    return {"headers": [{"type": "Exact", "name": name, "value": value}]}


def _backend(name: str, weight: int = 1) -> Obj:
    return {"group": "", "kind": "Service", "name": name, "port": 80, "weight": weight}

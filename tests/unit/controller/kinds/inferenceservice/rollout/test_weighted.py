"""A canary by weights, from the first step to the end: who gets which requests at each moment."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.inferenceservice import InferenceServiceStatus
from driftloop.controller.kinds.inferenceservice.decide import decide
from driftloop.controller.kinds.inferenceservice.observed import Observed, Revision, parse_revision
from driftloop.controller.kinds.inferenceservice.revision import deployment, revision_of
from driftloop.controller.traffic import Arms
from driftloop.controller.vocabulary.labels import REVISION, ROLE, WEIGHT
from driftloop.controller.vocabulary.plan import Action, Adjust, Apply, Create, Delete, Obj, Plan
from driftloop.controller.vocabulary.reasons import Reason
from driftloop.controller.vocabulary.world import RouteUnknown
from parts import examples
from unit.controller.kinds.inferenceservice.builders import NOW, SETTINGS, arm, carried, service, version

V1, V2, V3 = version("v1", 300), version("v2", 200), version("v3", 100)
STEPS = [{"weight": weight, "minSeconds": 30, "minRequests": 5} for weight in (1, 10, 50)]
GATEWAY: Obj = {"gateway": {"name": "public"}, "canary": {"steps": STEPS}}
PLAIN: Obj = {}
GOOD, BAD = Arms(arm(4000), arm(2000)), Arms(arm(400), arm(100, 60))


@dataclass
class Cluster:
    """The objects of a service. Pods are ready one tick after they are wanted; the Gateway follows every route."""

    spec: Obj = field(default_factory=lambda: GATEWAY)
    replicas: int = 2
    arms: Arms | None = None
    now: datetime = NOW
    deployments: dict[str, Obj] = field(default_factory=dict)
    services: dict[str, Obj] = field(default_factory=dict)
    route: Obj | None = None
    status: InferenceServiceStatus = field(default_factory=InferenceServiceStatus)
    versions: Any = (V1, V2)
    # What a Gateway may still see: routes, Services and ready pods of the seconds before.
    routes: list[Obj | None] = field(default_factory=list)
    earlier: list[dict[str, Obj]] = field(default_factory=list)
    ready: tuple[Revision, ...] = ()

    def __post_init__(self) -> None:
        """v1 serves, and the Gateway carries its requests."""
        self.versions, versions = (V1,), self.versions
        body = deployment(self.observed(), V1, self.revision("v1"), self.replicas, SETTINGS, NOW)
        body["metadata"]["labels"][ROLE] = "stable"
        self._keep(body)
        self.kubelet()
        for _ in range(3):
            self.tick()
        self.versions = versions

    def revision(self, name: str) -> str:
        found = next(known for known in (V1, V2, V3) if known.name == name)
        return revision_of(self._service(), found, SETTINGS)

    def observed(self) -> Observed:
        revisions = [parse_revision(body) for body in self.deployments.values()]
        return replace(
            self._service(),
            revisions=tuple(revision for revision in revisions if revision),
            services=tuple(self.services.values()),
            route=self._seen_route(),
            arms=self.arms,
        )

    def tick(self, seconds: float = 40) -> Plan:
        """Reconcile until nothing is written. Checks the requests after each write. Returns the first plan.

        The kubelet does nothing meanwhile, and a Gateway sees any mixture of what was and what is.
        """
        self.now += timedelta(seconds=seconds)
        self.routes, self.earlier, self.ready = [], [], self._ready()
        plans = [self._reconcile()]
        while plans[-1].writes != plans[-2].writes if len(plans) > 1 else True:
            plans.append(self._reconcile())
        return plans[0]

    def _reconcile(self) -> Plan:
        plan = decide(self.observed(), SETTINGS, self.now)
        for action in plan.writes:
            self.routes.append(self.route)
            self.earlier.append(dict(self.services))
            self._write(action)
            self.check()
        self.status = InferenceServiceStatus.model_validate(plan.status)
        return plan

    def _ready(self) -> tuple[Revision, ...]:
        return tuple(revision for revision in self.observed().revisions if revision.available)

    def check(self) -> None:
        """Whoever asks for the service, in the cluster or at the Gateway, reaches a ready pod."""
        ready = self._ready()
        draining = (*ready, *self.ready)  # pods that stop accept requests until a Gateway must have noticed it
        for services in (self.services, *self.earlier):
            for route in (self.route, *self.routes):
                now = services is self.services and route is self.route
                for name in {"desk", *backends(route)} & set(services):
                    pods = ready if now else draining
                    assert any(selects(services[name], revision) for revision in pods), (name, pods)

    def kubelet(self) -> None:
        """All wanted pods are ready, and others are gone."""
        for body in self.deployments.values():
            wanted = body["spec"]["replicas"]
            body["status"] = {"replicas": wanted, "availableReplicas": wanted, "observedGeneration": 1}

    def run(self, ticks: int = 16) -> Iterator[Plan]:
        for _ in range(ticks):
            yield self.tick()
            self.kubelet()

    def role(self, name: str) -> str | None:
        body = self.deployments.get(self._name(name))
        return body["metadata"]["labels"][ROLE] if body else None

    @property
    def weight(self) -> int:
        return backends(self.route).get("desk-canary", 0)

    def _service(self) -> Observed:
        spec = self.spec | {"replicas": self.replicas}
        return service(spec, versions=self.versions, status=self.status)

    def _seen_route(self) -> Obj | None:
        if self.route is None:
            return None
        metadata = self.route["metadata"] | {"uid": "uid-route", "generation": 1}
        answers = carried(self.route["spec"]["parentRefs"][0], 1, 1)["status"]
        return self.route | {"metadata": metadata, "status": answers}

    def _name(self, version_name: str) -> str:
        return next(
            (name for name, body in self.deployments.items() if f"versions/{version_name}" in str(body["spec"])), ""
        )

    def _keep(self, body: Obj) -> None:
        body["metadata"] |= {"uid": body["metadata"]["name"], "creationTimestamp": "2026-03-01T12:00:00Z"}
        self.deployments[body["metadata"]["name"]] = body | {"status": {"observedGeneration": 1}}

    def _write(self, action: Action) -> None:
        match action:
            case Create(body) if body["kind"] == "Deployment":
                self._keep(body)
            case Apply(body) if body["kind"] == "Service":
                self.services[body["metadata"]["name"]] = body | {"metadata": body["metadata"] | {"uid": "s"}}
            case Apply(body) if body["kind"] == "HTTPRoute":
                self.route = body
            case Delete(kind="HTTPRoute"):
                self.route = None
            case Delete(kind="Service", name=name):
                del self.services[name]
            case Delete(kind="Deployment", name=name):
                del self.deployments[name]
            case Adjust():
                self._adjust(action)

    def _adjust(self, action: Adjust) -> None:
        body = self.deployments[action.name]
        for key, changes in (("labels", action.labels), ("annotations", action.annotations)):
            merged = body["metadata"].get(key, {}) | changes
            body["metadata"][key] = {name: value for name, value in merged.items() if value is not None}
        if action.replicas is not None:
            body["spec"]["replicas"] = action.replicas
            # Pods that are stopped accept requests for a moment more, but a Gateway may not see them any more.
            left = min(action.replicas, body["status"].get("availableReplicas", 0))
            body["status"]["availableReplicas"] = left


def backends(route: Obj | None) -> dict[str, int]:
    """The Services that a route names, with their share of the requests that name no arm."""
    if route is None:
        return {}
    return {backend["name"]: backend["weight"] for backend in route["spec"]["rules"][-1]["backendRefs"]}


def selects(body: Obj, revision: Revision) -> bool:
    return bool(body["spec"]["selector"].get(REVISION, revision.revision) == revision.revision)


def test_a_good_candidate_rises_by_its_steps_and_takes_over() -> None:
    cluster, weights = Cluster(arms=GOOD), []
    for _ in cluster.run():
        weights.append(cluster.weight)
        if cluster.weight:
            assert cluster.status.traffic == f"{100 - cluster.weight}/{cluster.weight}"
    assert [weight for n, weight in enumerate(weights) if n == 0 or weights[n - 1] != weight] == [0, 1, 10, 50, 0]
    assert (cluster.role("v1"), cluster.role("v2")) == (None, "stable")
    assert backends(cluster.route) == {"desk": 100}


def test_a_worse_candidate_loses_its_requests_before_its_pods() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.weight == 10:
            break
    cluster.arms = BAD
    plan = cluster.tick()
    kinds = [
        "route" if isinstance(action, Apply) and action.body["kind"] == "HTTPRoute" else "pods"
        for action in plan.writes
        if isinstance(action, Adjust) or (isinstance(action, Apply) and action.body["kind"] == "HTTPRoute")
    ]
    assert kinds == ["route", "pods"]
    assert (cluster.weight, cluster.role("v2")) == (0, "failed")
    for _ in cluster.run(3):
        assert backends(cluster.route) == {"desk": 100}


def test_direct_clients_reach_stable_alone_until_the_candidate_has_passed() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.role("v2") == "candidate" and cluster.weight:
            assert cluster.services["desk"]["spec"]["selector"][REVISION] == cluster.revision("v1")
    assert REVISION not in cluster.services["desk"]["spec"]["selector"]


def test_a_candidate_without_a_ready_pod_gets_no_requests_until_it_has_one_again() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.weight == 10:
            break
    for body in cluster.deployments.values():
        if body["metadata"]["annotations"].get(WEIGHT):
            body["status"]["availableReplicas"] = 0
    plan = decide(cluster.observed(), SETTINGS, cluster.now)
    (route,) = [a.body for a in plan.writes if isinstance(a, Apply) and a.body["kind"] == "HTTPRoute"]
    assert backends(route) == {"desk": 100}
    cluster.arms = None
    cluster.kubelet()
    cluster.tick()
    assert cluster.weight > 0


def test_a_newer_candidate_begins_anew_and_a_gateway_that_is_behind_finds_ready_pods() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.weight == 10:
            break
    cluster.versions = (V1, V2, V3)
    cluster.tick()  # checks each write
    assert (cluster.weight, cluster.role("v2"), cluster.role("v3")) == (0, "retired", "candidate")


def test_if_stable_is_lost_all_requests_reach_the_candidate_that_has_users() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.weight == 10:
            break
    for body in cluster.deployments.values():
        if body["metadata"]["labels"][ROLE] == "stable":
            body["status"]["availableReplicas"] = 0
    plan = decide(cluster.observed(), SETTINGS, cluster.now)
    (found,) = [
        action.body["spec"]["selector"]
        for action in plan.writes
        if isinstance(action, Apply) and action.body["kind"] == "Service" and action.body["metadata"]["name"] == "desk"
    ]
    assert REVISION not in found


def test_a_candidate_waits_while_the_gateway_is_not_known_to_carry_its_requests() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.weight == 1:
            break
    observed = replace(cluster.observed(), route=RouteUnknown(Reason.GATEWAY_API_MISSING, "install it"))
    plan = decide(observed, SETTINGS, cluster.now + timedelta(seconds=90))
    assert not [action for action in plan.writes if isinstance(action, Adjust)]
    assert plan.status is not None
    conditions = {entry["type"]: entry for entry in plan.status["conditions"]}
    assert conditions["RouteAccepted"]["status"] == "Unknown"
    assert conditions["Ready"]["status"] == "False"
    assert conditions["Stalled"]["reason"] == "GatewayApiMissing"


def test_no_candidate_is_started_while_the_gateway_refuses_the_route_and_the_reason_is_said() -> None:
    cluster = Cluster(arms=GOOD)
    route = cluster.observed().route
    assert isinstance(route, dict)
    for answer in route["status"]["parents"][0]["conditions"]:
        answer |= {"status": "False", "reason": "NotAllowedByListeners", "message": "no"}
    plan = decide(replace(cluster.observed(), route=route), SETTINGS, cluster.now)
    assert not [action for action in plan.writes if isinstance(action, Create | Adjust)]
    assert plan.status is not None
    (ready,) = [entry for entry in plan.status["conditions"] if entry["type"] == "Ready"]
    assert (ready["status"], ready["reason"]) == ("False", "RouteRefused")
    assert "NotAllowedByListeners" in ready["message"]


def test_the_first_step_waits_for_the_gateway_too() -> None:
    cluster = Cluster(arms=GOOD)
    for _ in cluster.run():
        if cluster.role("v2") == "candidate":
            break
    cluster.kubelet()
    unknown = replace(cluster.observed(), route=RouteUnknown(Reason.GATEWAY_FORBIDDEN, "no right"))
    plan = decide(unknown, SETTINGS, cluster.now)
    assert not [action for action in plan.writes if isinstance(action, Adjust)]
    step = decide(cluster.observed(), SETTINGS, cluster.now)
    assert [action.annotations[WEIGHT] for action in step.writes if isinstance(action, Adjust)] == ["1"]


def test_without_its_gateway_a_candidate_goes_on_by_pods_with_a_new_analysis() -> None:
    cluster = Cluster(arms=None)
    for _ in cluster.run():
        if cluster.role("v2") == "candidate" and cluster.weight == 1:
            break
    cluster.spec = PLAIN
    plan = cluster.tick()
    assert [event.reason for event in plan.events] == ["GatewayRemoved"]
    candidate = cluster.observed().role("candidate")
    assert candidate is not None
    assert (candidate.hidden, candidate.weight, candidate.analysis_started) == (False, None, cluster.now)
    assert REVISION not in cluster.services["desk"]["spec"]["selector"]
    assert plan.status is not None
    assert (cluster.route, set(cluster.services)) == (None, {"desk"})


def test_without_a_gateway_nothing_is_hidden_and_there_is_no_route() -> None:
    cluster = Cluster(PLAIN, arms=GOOD)
    for _ in cluster.run():
        assert cluster.route is None
        assert set(cluster.services) == {"desk"}
    assert cluster.role("v2") == "stable"


EVENTS = st.sampled_from(["gateway", "plain", "good", "bad", "none", "3 pods", "1 pod", "shadow", "v3"])
SHADOWED: Obj = {**GATEWAY, "canary": {**GATEWAY["canary"], "shadow": {"requests": 10}}}


@examples(300)
@given(
    first=st.sampled_from([GATEWAY, PLAIN]),
    replicas=st.integers(1, 4),
    events=st.lists(st.tuples(EVENTS, st.integers(0, 3)), max_size=8),
)
def test_no_change_of_the_spec_or_of_the_figures_leaves_a_request_without_a_pod(
    first: Obj, replicas: int, events: list[tuple[str, int]]
) -> None:
    """`check` is the assertion, after each write. In the end there is one version, and no weight."""
    cluster = Cluster(first, replicas, arms=None)
    for event, ticks in events:
        match event:
            case "gateway" | "plain" | "shadow":
                cluster.spec = {"gateway": GATEWAY, "plain": PLAIN, "shadow": SHADOWED}[event]
            case "good" | "bad" | "none":
                cluster.arms = {"good": GOOD, "bad": BAD, "none": None}[event]
            case "v3":
                cluster.versions = (V1, V2, V3)
            case _:
                cluster.replicas = int(event[0])
        for _ in cluster.run(ticks):
            pass
    cluster.arms = GOOD
    cluster.spec = GATEWAY if cluster.spec is SHADOWED else cluster.spec
    for _ in cluster.run(30):
        pass
    roles = [body["metadata"]["labels"][ROLE] for body in cluster.deployments.values()]
    assert roles.count("stable") == 1
    assert set(roles) <= {"stable", "failed"}
    assert cluster.weight == 0
    assert (cluster.route is not None) == ("desk-canary" in cluster.services) == (cluster.spec is GATEWAY)

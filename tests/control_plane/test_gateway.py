"""A service with a Gateway: the test plays the Gateway's answers on a real API server, or a real Traefik gives them."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from control_plane.gateway import (
    FOLLOWS_SECONDS,
    Load,
    Pods,
    ask,
    by_arm,
    by_bucket,
    create_gateway,
    install_gateway_api,
    traefik,
)
from control_plane.harness import ROOT, Cluster, OperatorProcess, StartOperator, eventually
from control_plane.serving import deployment, judged, role, service, settled
from control_plane.traffic import Traffic
from demo.reads import Reads
from testcluster.controlplane import ControlPlane, free_port

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

GATEWAY = {"name": "public"}
STEPS = [{"weight": weight, "minSeconds": 8, "minRequests": 3} for weight in (1, 10, 50)]
SPEC: Any = {
    "gateway": GATEWAY,
    "canary": {"steps": STEPS, "minRequests": 20, "minSeconds": 8, "maxErrorRateIncrease": 0.2},
}


@pytest.fixture
def crds(plane: ControlPlane) -> None:
    install_gateway_api(plane)


@pytest.fixture
def traffic(tmp_path: Path) -> Iterator[Traffic]:
    found = Traffic(tmp_path)
    yield found
    found.stop()


def answered(cluster: Cluster, **changes: str) -> None:
    """Answer for the route as a Gateway's controller does."""
    route = cluster.get("httproutes", "desk")
    conditions = [
        {
            "type": kind,
            "status": changes.get(kind, "True"),
            "reason": "Played",
            "message": "by the test",
            "observedGeneration": route["metadata"]["generation"],
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }
        for kind in ("Accepted", "ResolvedRefs")
    ]
    parent = {"parentRef": route["spec"]["parentRefs"][0], "controllerName": "test/er", "conditions": conditions}
    cluster.patch_status("httproute", "desk", {"parents": [parent]})


def is_ready(cluster: Cluster, reason: str) -> bool:
    return bool((cluster.condition("dlsvc", "desk", "Ready") or {}).get("reason") == reason)


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[Cluster]:
    """A namespace of a control plane without Gateway API, and an operator for it."""
    with ControlPlane(tmp_path / "plane") as plane:
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        plane.kubectl("create", "namespace", "bare")
        cluster = Cluster(plane, "bare", Reads(plane.kubeconfig))
        operator = OperatorProcess(cluster, tmp_path, "a", None).start().ready()
        yield cluster
        operator.stop(kill=True)


def test_without_gateway_api_in_the_cluster_the_service_says_what_to_install(bare: Cluster) -> None:
    cluster = bare
    judged(cluster, "v1")
    cluster.create(service(**SPEC))
    eventually(lambda: settled(cluster, "v1", "stable"))
    eventually(lambda: is_ready(cluster, "GatewayApiMissing"))
    found = cluster.condition("dlsvc", "desk", "RouteAccepted")
    assert found["status"] == "Unknown"
    assert "install Gateway API" in found["message"]
    assert cluster.condition("dlsvc", "desk", "Stalled")["reason"] == "GatewayApiMissing"
    assert cluster.condition("dlsvc", "desk", "ChildrenRefused") is None


@pytest.mark.usefixtures("crds")
def test_the_route_follows_the_spec_and_a_candidate_waits_for_the_gateways_answer(
    cluster: Cluster, operators: StartOperator
) -> None:
    operators().start().ready()
    judged(cluster, "v1")
    cluster.create(service(**SPEC))
    eventually(lambda: settled(cluster, "v1", "stable"))
    eventually(lambda: is_ready(cluster, "RoutePending"))
    judged(cluster, "v2", against="v1")
    answered(cluster, Accepted="False")
    eventually(lambda: is_ready(cluster, "RouteRefused"))
    assert deployment(cluster, "v2") is None
    answered(cluster)
    eventually(lambda: deployment(cluster, "v2"))
    eventually(lambda: settled(cluster, "v2", "candidate"))
    eventually(lambda: weight(cluster) == 1)
    generation = cluster.get("httproutes", "desk")["metadata"]["generation"]
    answered(cluster)
    eventually(lambda: (cluster.condition("dlsvc", "desk", "RouteAccepted") or {}).get("status") == "True")

    # A settled route is written by nobody, and without a Gateway in the spec it goes.
    time.sleep(12)
    assert cluster.get("httproutes", "desk")["metadata"]["generation"] == generation
    patch(cluster, {"gateway": None, "canary": {"steps": None}})
    eventually(lambda: cluster.get("httproutes", "desk") is None)
    eventually(lambda: cluster.get("services", "desk-canary") is None)
    eventually(lambda: cluster.condition("dlsvc", "desk", "RouteAccepted") is None)


def patch(cluster: Cluster, spec: Any) -> None:
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", json.dumps({"spec": spec}))


def weight(cluster: Cluster) -> int:
    """The candidate's weight in the live route."""
    route = cluster.get("httproutes", "desk")
    backends = route["spec"]["rules"][-1]["backendRefs"] if route else []
    return next((int(each["weight"]) for each in backends if each["name"] == "desk-canary"), 0)


# --- a real Gateway ---


@dataclass
class Served:
    """A service behind Traefik, with v1 as stable version."""

    cluster: Cluster
    pods: Pods
    url: str

    async def until(self, check: Callable[[], Any], seconds: float = 180) -> Any:
        """Repeat `check` until its result is true, while the pods and the requests go on."""
        return await asyncio.to_thread(eventually, check, seconds)

    async def reaches(self, wanted: int) -> float:
        """Wait until the candidate has this weight. Returns when Traefik must have followed it."""
        await self.until(lambda: weight(self.cluster) == wanted)
        return time.monotonic() + FOLLOWS_SECONDS

    async def answers(self) -> None:
        """Wait for an answer at the Gateway: Traefik reports that it has accepted a new route before it serves it."""
        async with aiohttp.ClientSession() as session:
            for _ in range(600):
                if (await ask(session, self.url)).version is not None:
                    return
                await asyncio.sleep(0.1)
        pytest.fail("no pod answers at the Gateway")

    async def command(self, action: str) -> None:
        """Pause or resume the candidate's rollout."""
        revision = self.cluster.get("dlsvc", "desk")["status"]["candidate"]["revision"]
        value = f"driftloop.dev/rollout={action} {revision} by test"
        await asyncio.to_thread(self.cluster.kubectl, "annotate", "dlsvc", "desk", "--overwrite", value)


@asynccontextmanager
async def served(
    cluster: Cluster, operators: StartOperator, traffic: Traffic, folder: Path, spec: Any
) -> AsyncIterator[Served]:
    port = free_port()
    create_gateway(cluster, port)
    operators(traffic.flag).start().ready()
    judged(cluster, "v1")
    async with AsyncExitStack() as stack:
        stack.enter_context(traefik(cluster.plane, cluster.namespace, folder, port))
        pods = await stack.enter_async_context(Pods(cluster, traffic).running())
        found = Served(cluster, pods, f"http://127.0.0.1:{port}")
        await asyncio.to_thread(cluster.create, service(**spec))
        await found.until(lambda: (cluster.condition("dlsvc", "desk", "Ready") or {}).get("status") == "True")
        await found.answers()
        yield found


def assert_share(load: Load, expected: int, since: float, until: float) -> None:
    """The candidate's share is the weight, but for chance: at most four standard deviations."""
    share, number = load.share("v2", since, until)
    deviation = math.sqrt(expected * (100 - expected) / max(number, 1))
    assert number >= 100
    assert abs(100 * share - expected) <= 4 * deviation, (share, number)
    print(f"{expected} %: {100 * share:.2f} % of {number} requests")


@pytest.mark.long("gateway")
@pytest.mark.usefixtures("crds")
async def test_traefik_divides_the_requests_by_the_weights_and_loses_none_until_the_promotion(
    cluster: Cluster, operators: StartOperator, traffic: Traffic, tmp_path: Path
) -> None:
    async with served(cluster, operators, traffic, tmp_path, SPEC) as found, found.pods.load(found.url) as load:
        judged(cluster, "v2", against="v1")
        first = await found.reaches(1)
        second = await found.reaches(10)
        assert_share(load, 1, first, second - FOLLOWS_SECONDS)
        await found.command("pause")
        await found.until(lambda: cluster.get("dlsvc", "desk")["status"]["phase"] == "Paused")
        assert weight(cluster) == 10
        async with aiohttp.ClientSession() as session:
            await asyncio.sleep(FOLLOWS_SECONDS)
            chosen = {arm: {(await ask(session, found.url, by_arm(arm))).version for _ in range(30)} for arm in ARMS}
            users = [(await ask(session, found.url, by_bucket(bucket))).version for bucket in range(100)]
        assert chosen == {"candidate": {"v2"}, "stable": {"v1"}}
        assert users == ["v2"] * 10 + ["v1"] * 90
        paused = time.monotonic()
        await found.command("resume")
        third = await found.reaches(50)
        assert_share(load, 10, second, paused)
        await found.until(lambda: role(cluster, "v2") == "stable")
        assert_share(load, 50, third, time.monotonic() - FOLLOWS_SECONDS)
        await asyncio.sleep(10)  # the pods of v1 end
        assert {answer.version for answer in load.answers[-100:]} == {"v2"}
        assert weight(cluster) == 0
        print(f"{len(load.answers)} requests, {len(load.lost())} lost")
        assert load.lost() == []


ARMS = ("candidate", "stable")


@pytest.mark.long("gateway")
@pytest.mark.usefixtures("crds")
async def test_a_worse_candidate_loses_its_weight_and_no_request_but_its_own_answers_fails(
    cluster: Cluster, operators: StartOperator, traffic: Traffic, tmp_path: Path
) -> None:
    async with served(cluster, operators, traffic, tmp_path, SPEC) as found, found.pods.load(found.url) as load:
        judged(cluster, "v2", against="v1")
        await found.reaches(10)
        found.pods.bad.add("v2")
        await found.until(lambda: role(cluster, "v2") == "failed")
        failed = time.monotonic()
        await asyncio.sleep(10)
        share, number = load.share("v2", failed + FOLLOWS_SECONDS, time.monotonic())
        assert (share, number > 100) == (0.0, True)
        assert load.lost() == []
        assert {answer.version for answer in load.answers if answer.status != 200} == {"v2"}
        print(f"{len(load.answers)} requests, {len(load.lost())} lost")


@pytest.mark.long("gateway")
@pytest.mark.usefixtures("crds")
async def test_a_gateway_that_is_added_and_removed_in_a_canary_loses_no_request(
    cluster: Cluster, operators: StartOperator, traffic: Traffic, tmp_path: Path
) -> None:
    """The Service's own clients lose none at any time, and the Gateway's none while the spec names it."""
    async with served(cluster, operators, traffic, tmp_path, SPEC) as found, found.pods.load() as direct:
        async with found.pods.load(found.url) as load:
            judged(cluster, "v2", against="v1")
            await found.reaches(10)
        patch(cluster, {"gateway": None, "canary": {"steps": None, "minSeconds": 600}})
        await found.until(lambda: cluster.get("httproutes", "desk") is None)
        by_pods = time.monotonic()
        await found.until(lambda: direct.share("v2", by_pods, time.monotonic())[0] > 0.2)
        patch(cluster, {"gateway": GATEWAY, "canary": {"minSeconds": 8}})
        await found.until(lambda: (cluster.condition("dlsvc", "desk", "RouteAccepted") or {}).get("status") == "True")
        await found.answers()
        async with found.pods.load(found.url) as again:
            await found.until(lambda: role(cluster, "v2") == "stable")
            await asyncio.sleep(10)
        assert (load.lost(), again.lost(), direct.lost()) == ([], [], [])
        print(f"{len(load.answers) + len(again.answers)} requests by the Gateway, {len(direct.answers)} by the Service")

"""A service under load loses no request while its pods, its status and its settings change."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cluster.lab import TRAINED, Lab, kill_operator, tiny_pools
from cluster.looprun import LoopRun
from demo.install import CLAIM, SYSTEM
from demo.reads import Obj
from demo.traffic import Traffic, feedback_token
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

NAME = "served"


def service(**changes: object) -> Obj:
    spec = {
        "model": {"family": TRAINED},
        "replicas": 2,
        "drainSeconds": 10,
        "canary": {"minRequests": 30, "minSeconds": 5, "maxErrorRateIncrease": 0.1, "maxLatencyRatio": 10},
        "feedback": {"storage": f"pvc://{CLAIM}/{NAME}/feedback"},
        "engine": {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}},
    }
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": NAME},
        "spec": spec | changes,
    }


def pods(lab: Lab) -> list[Obj]:
    return [
        pod
        for pod in lab.list("pods", f"driftloop.dev/service={NAME}")
        if "deletionTimestamp" not in pod["metadata"] and pod["status"].get("phase") == "Running"
    ]


def leader(lab: Lab) -> str:
    """The operator's pod that holds the Lease; empty if it was released."""
    lease: Obj = lab.kube.get("lease", "driftloop-operator", SYSTEM) or {}
    return str(lease["spec"]["holderIdentity"])


def serving(lab: Lab) -> Obj | None:
    """The status if the service serves and has no candidate, else None."""
    status: Obj = lab.get("inferenceservice", NAME).get("status", {})
    return status if status.get("phase") == "Serving" and not status.get("candidate") else None


@pytest.fixture(scope="module")
def served(lab: Lab, trained: str, loop_beside: LoopRun | None) -> Iterator[Obj]:
    """A service of the tiny model with two pods, in parallel with the loop."""
    lab.judged(lab.phase(trained, "Succeeded")["status"]["version"])  # so that no other version appears meanwhile
    lab.apply(service())
    status: Obj = lab.kube.wait(
        "serving", lambda: serving(lab), 240, tell=lambda: str(lab.get("inferenceservice", NAME))
    )
    yield status
    lab.kube.run("delete", "inferenceservice", NAME, "-n", lab.namespace)


@pytest.fixture(scope="module")
def client(lab: Lab, served: Obj) -> Iterator[Traffic]:
    """The load client: keep-alive connections, every tenth request streamed."""
    rows = {"old": tiny_pools().traffic}
    with Traffic(lab.kube, lab.namespace, lab.installed.images["operator"], NAME, rows) as running:
        yield running


@dataclass(frozen=True)
class Load:
    """Load of ten requests per second, counted per test."""

    traffic: Traffic
    phase: str

    def sent(self, requests: int) -> None:
        """Wait until `requests` more were sent."""
        beyond = self.traffic.sent(self.phase) + requests
        wait.until(lambda: self.traffic.sent(self.phase) > beyond, f"{requests} more requests", 120)

    def failures(self) -> int:
        """The number of failed requests, after waiting for more requests and for running ones to end."""
        self.sent(60)
        time.sleep(2)
        return self.traffic.by_phase[self.phase]["failed"]

    def lost_nothing(self) -> bool:
        """Whether no request failed and no connection was refused."""
        return self.failures() == 0 and self.traffic.by_phase[self.phase]["refused"] == 0


@pytest.fixture
def load(client: Traffic, request: pytest.FixtureRequest) -> Load:
    """Load for this test, already started."""
    client.phase(request.node.name, 10, old=1.0)
    load = Load(client, request.node.name)
    load.sent(30)
    return load


def test_a_deleted_pod_costs_no_request(lab: Lab, load: Load) -> None:
    victim = pods(lab)[0]["metadata"]["name"]
    lab.kube.run("delete", "pod", victim, "-n", lab.namespace, "--wait=false")
    wait.until(lambda: len(pods(lab)) == 2 and serving(lab), "another pod", 240)
    assert load.lost_nothing(), load.traffic.totals()


@pytest.mark.long("faults")
def test_a_killed_pod_costs_no_more_than_the_connections_it_held(lab: Lab, load: Load) -> None:
    victim = pods(lab)[0]["metadata"]["name"]
    lab.kube.run("delete", "pod", victim, "-n", lab.namespace, "--grace-period=0", "--force", "--wait=false")
    wait.until(lambda: len(pods(lab)) == 2 and serving(lab), "another pod", 240)
    # New connections are refused until all nodes know that the pod is gone; the client retries, as nothing was sent.
    assert load.failures() <= 10, load.traffic.totals()


@pytest.mark.long("faults")
def test_a_wiped_status_moves_no_traffic(lab: Lab, load: Load) -> None:
    before = serving(lab)
    assert before is not None
    uids = {pod["metadata"]["uid"] for pod in pods(lab)}
    lab.wipe_status("inferenceservice", NAME)
    after: Obj = lab.kube.wait("status again", lambda: serving(lab), 240)
    assert after["stable"]["revision"] == before["stable"]["revision"]
    assert {pod["metadata"]["uid"] for pod in pods(lab)} == uids
    assert load.lost_nothing(), load.traffic.totals()


@pytest.mark.long("faults")
def test_a_restarted_operator_restarts_no_serving_pod(lab: Lab, load: Load) -> None:
    uids = {pod["metadata"]["uid"] for pod in pods(lab)}
    before = leader(lab)
    kill_operator(lab.kube)
    wait.until(lambda: leader(lab) not in (before, ""), "another operator to lead", 120)
    assert {pod["metadata"]["uid"] for pod in pods(lab)} == uids
    assert load.lost_nothing(), load.traffic.totals()


@pytest.mark.long("faults")
def test_a_rollout_costs_no_request(lab: Lab, load: Load) -> None:
    before = serving(lab)
    assert before is not None
    lab.apply(service(drainSeconds=12))

    def promoted() -> Obj | None:
        status = serving(lab)
        return status if status and status["stable"]["revision"] != before["stable"]["revision"] else None

    lab.kube.wait("promotion", promoted, 300, tell=lambda: str(lab.get("inferenceservice", NAME).get("status")))
    assert load.lost_nothing(), load.traffic.totals()


def test_feedback_that_is_forged_or_without_token_is_refused(lab: Lab, served: Obj) -> None:
    code = f"""
import json, urllib.error, urllib.request
def post(token, body):
    url = "http://{NAME}-feedback.{lab.namespace}.svc/v1/feedback"
    request = urllib.request.Request(url, json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    request.add_header("Authorization", "Bearer " + token)
    try:
        print(urllib.request.urlopen(request, timeout=20).status)
    except urllib.error.HTTPError as error:
        print(error.code)
body = {{"response_id": "resp-Zm9yZ2Vk.Zm9yZ2Vk", "rating": "correction", "correction": "x", "consent": True}}
post("wrong", body)
post({feedback_token(lab.kube, lab.namespace, NAME)!r}, body)
"""
    printed = lab.run_pod("forger", lab.installed.images["operator"], ["python3", "-c", code])
    assert printed.split() == ["401", "403"]

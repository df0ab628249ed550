"""A service that sleeps without requests, with a real API server and the whole operator.

The tests play the Deployment controller and the kubelet. Their pods only say how busy they are.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest

from control_plane.harness import Cluster, OperatorProcess, StartOperator, eventually
from control_plane.serving import deployment, judged, play_kubelet, service
from control_plane.test_monitoring_chart import FakePod
from driftloop.contract.activity import Activity
from driftloop.contract.names import ACTIVITY_PATH, METRICS_PORT

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

STAGE = "driftloop.dev/stage"
SCALE_TO_ZERO = {"idleSeconds": 10, "holdSeconds": 60}


def listener(address: str, say: Callable[[], Activity]) -> ThreadingHTTPServer:
    """A pod's port for the operator."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(say().dump()).encode() if self.path == ACTIVITY_PATH else b""
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *line: object) -> None:
            pass

    server = ThreadingHTTPServer((address, METRICS_PORT), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    return server


@dataclass
class Nodes:
    """Makes the pods of all Deployments, ready at once unless `slow`. `held`: requests that wait at the door."""

    cluster: Cluster
    held: int = 0
    slow: bool = False
    last: float = field(default_factory=time.monotonic)  # the last request to a serving pod
    servers: dict[str, ThreadingHTTPServer] = field(default_factory=dict)

    def step(self) -> None:
        """Create missing pods and remove superfluous ones, then write the statuses of the Deployments."""
        wanted = {}
        for found in self.cluster.list("deployments"):
            if self.slow and found["spec"]["template"]["metadata"]["labels"][STAGE] == "serve":
                continue
            for number in range(found["spec"]["replicas"]):
                wanted[f"{found['metadata']['name']}-{number}"] = found["spec"]["template"]
        for name in self.servers.keys() - wanted.keys():
            self.stop(name)
            self.cluster.kubectl("delete", "pod", name, "--force", "--grace-period=0")
        for name in wanted.keys() - self.servers.keys():
            self.start(name, wanted[name])
        if not self.slow:
            play_kubelet(self.cluster)

    def start(self, name: str, template: Any) -> None:
        labels = template["metadata"]["labels"]
        pod = FakePod(name, labels, METRICS_PORT, "metrics")
        say = self.door if labels[STAGE] == "door" else self.pod
        self.servers[name] = listener(pod.address, say)
        pod.create(self.cluster)

    def stop(self, name: str) -> None:
        server = self.servers.pop(name)
        server.shutdown()
        server.server_close()

    def pod(self) -> Activity:
        return Activity(running=0, idle_seconds=time.monotonic() - self.last)

    def door(self) -> Activity:
        return Activity(running=self.held, held=self.held, idle_seconds=0 if self.held else None)

    def phase(self, wanted: str) -> Any:
        """Play, then the service's status if it has this phase."""
        self.step()
        status = self.cluster.get("dlsvc", "desk").get("status") or {}
        return status if status.get("phase") == wanted else None

    def replicas(self) -> int:
        return int(deployment(self.cluster, "v1")["spec"]["replicas"])

    def leads_to(self) -> str:
        """The stage of the pods that the Service selects."""
        return str(self.cluster.get("service", "desk")["spec"]["selector"][STAGE])


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    found = Nodes(cluster)
    yield found
    for name in list(found.servers):
        found.stop(name)


def asleep(nodes: Nodes, operators: StartOperator, **spec: Any) -> OperatorProcess:
    """An operator, and the service with v1, which sleeps."""
    operator = operators().start().ready()
    judged(nodes.cluster, "v1")
    nodes.cluster.create(service(**{"scaleToZero": SCALE_TO_ZERO, **spec}))
    eventually(lambda: nodes.phase("Serving"))
    eventually(lambda: nodes.phase("Asleep"))
    return operator


def test_an_idle_service_sleeps_and_a_request_at_its_door_wakes_it(
    cluster: Cluster, operators: StartOperator, nodes: Nodes
) -> None:
    operator = asleep(nodes, operators)
    assert (nodes.replicas(), nodes.leads_to()) == (0, "door")
    assert cluster.get("service", "desk-pods")["spec"]["selector"][STAGE] == "serve"
    ready = cluster.condition("dlsvc", "desk", "Ready")
    assert (ready["status"], ready["reason"]) == ("True", "Asleep")
    assert "Asleep" in cluster.kubectl("get", "inferenceservice", "desk")
    path = f"/apis/driftloop.dev/v1alpha1/namespaces/{cluster.namespace}/inferenceservices/desk/scale"
    scale = json.loads(cluster.kubectl("get", "--raw", path))
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 0)

    writes = operator.writes()
    time.sleep(8)  # four questions to the door
    assert operator.writes() == writes

    nodes.held, nodes.slow = 3, True
    eventually(lambda: nodes.phase("Waking"))
    assert (nodes.replicas(), nodes.leads_to()) == (2, "door")
    nodes.slow, nodes.last = False, time.monotonic()
    eventually(lambda: nodes.phase("Serving"))
    nodes.held = 0
    eventually(lambda: nodes.leads_to() == "serve")
    reasons = {event["reason"] for event in cluster.list("events.events.k8s.io")}
    assert {"Asleep", "Waking", "Awake"} <= reasons
    assert len([found for found in cluster.list("deployments") if found["spec"]["replicas"]]) == 2


def test_requests_keep_it_awake(cluster: Cluster, operators: StartOperator, nodes: Nodes) -> None:
    operators().start().ready()
    judged(cluster, "v1")
    cluster.create(service(scaleToZero=SCALE_TO_ZERO))
    eventually(lambda: nodes.phase("Serving"))
    for _ in range(10):
        nodes.last = time.monotonic()
        time.sleep(2)
        assert nodes.phase("Serving")
    assert nodes.leads_to() == "serve"
    assert not [event for event in cluster.list("events.events.k8s.io") if event["reason"] == "Asleep"]


def test_neither_the_loss_of_the_status_nor_of_the_operator_changes_who_sleeps(
    cluster: Cluster, operators: StartOperator, nodes: Nodes
) -> None:
    operator = asleep(nodes, operators)
    patch = json.dumps([{"op": "remove", "path": "/status"}])
    cluster.kubectl("patch", "dlsvc", "desk", "--subresource=status", "--type=json", "-p", patch)
    eventually(lambda: nodes.phase("Asleep"))
    operator.stop(kill=True)
    nodes.held, nodes.slow = 1, True
    operator.start().ready()
    eventually(lambda: nodes.phase("Waking"))
    operator.stop(kill=True)
    nodes.slow, nodes.last, nodes.held = False, time.monotonic(), 0
    operator.start().ready()
    eventually(lambda: nodes.phase("Serving") and nodes.leads_to() == "serve")
    assert nodes.replicas() == 2


def test_a_version_waits_until_the_service_is_awake(cluster: Cluster, operators: StartOperator, nodes: Nodes) -> None:
    asleep(nodes, operators)
    judged(cluster, "v2", against="v1")
    eventually(lambda: "v2" in cluster.condition("dlsvc", "desk", "Ready")["message"])
    assert deployment(cluster, "v2") is None
    nodes.held = 1
    eventually(lambda: nodes.replicas() == 2)
    nodes.last, nodes.held = time.monotonic(), 0
    eventually(lambda: nodes.phase("Canary"))
    assert (nodes.replicas(), deployment(cluster, "v2")["spec"]["replicas"]) == (2, 1)
    time.sleep(12)  # no request for longer than idleSeconds: the canary needs the pods
    assert nodes.phase("Canary")
    assert nodes.leads_to() == "serve"


def test_a_service_that_is_no_longer_to_sleep_wakes_and_then_loses_its_door(
    cluster: Cluster, operators: StartOperator, nodes: Nodes
) -> None:
    asleep(nodes, operators)
    cluster.kubectl("patch", "dlsvc", "desk", "--type=merge", "-p", json.dumps({"spec": {"scaleToZero": None}}))
    eventually(lambda: nodes.phase("Serving") and nodes.leads_to() == "serve")
    eventually(lambda: [found["metadata"]["labels"][STAGE] for found in cluster.list("deployments")] == ["serve"])
    eventually(lambda: cluster.get("service", "desk-pods") is None)

"""Two replicas of two pods each, on two nodes: one loses its worker under load and comes back, the other serves on."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.lab import TRAINED, Lab
from demo.reads import Obj
from driftloop.contract.names import API_PORT
from testcluster.client import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400), pytest.mark.long("vllm")]

NAME = "over-nodes"
# Sends a request per second to one pod, and prints how many were answered, and what was not.
ASKS = """
import json, time, urllib.request
body = json.dumps({"model": "NAME", "prompt": "my card", "max_tokens": 8}).encode()
answered, failed, end = 0, [], time.monotonic() + SECONDS
while time.monotonic() < end:
    request = urllib.request.Request("URL", body, {"content-type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=60).read()
        answered += 1
    except Exception as error:
        failed.append(repr(error))
    time.sleep(1)
print(json.dumps({"answered": answered, "failed": failed}))
"""


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> Obj:
    """vLLM over two pods, a stage each."""
    image = cluster.provider.provide_images(["vllm"])["vllm"]
    # Stages on CPUs need a warm-up, which vLLM leaves out with --enforce-eager; this one compiles nothing either.
    uncompiled = '--compilation-config={"mode":2,"backend":"eager"}'
    threads = [{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "VLLM_CPU_OMP_THREADS_BIND", "value": "nobind"}]
    resources = {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "5Gi"}}
    settings = {"type": "vllm", "image": image, "dtype": "float32", "args": [uncompiled], "env": threads}
    return settings | {"nodes": 2, "resources": resources}


@pytest.fixture(scope="module")
def served(lab: Lab, trained: str, engine: Obj) -> Iterator[Lab]:
    """The service, both of whose groups are ready."""
    spec = {"model": {"family": TRAINED}, "replicas": 2, "drainSeconds": 10, "engine": engine}
    spec["canary"] = {"progressDeadlineSeconds": 1200}
    kind = {"apiVersion": "driftloop.dev/v1alpha1", "kind": "InferenceService"}
    lab.apply({**kind, "metadata": {"name": NAME}, "spec": spec})
    both_ready(lab)
    yield lab
    lab.kube.run("delete", "inferenceservice", NAME, "-n", lab.namespace)


def both_ready(lab: Lab) -> None:
    def ready() -> bool:
        found = lab.get("inferenceservice", NAME).get("status", {})
        return found.get("phase") == "Serving" and (found.get("stable") or {}).get("readyReplicas") == 2

    lab.kube.wait("two groups", ready, 1200, tell=lambda: json.dumps(lab.get("inferenceservice", NAME).get("status")))


def groups(lab: Lab) -> dict[str, list[Obj]]:
    """The pods of each group that is not Terminating, by the name of its leader: the leader, then its workers."""
    pods = [
        pod for pod in lab.list("pods", f"driftloop.dev/service={NAME}") if "deletionTimestamp" not in pod["metadata"]
    ]
    leaders = [pod for pod in pods if pod["metadata"]["labels"]["driftloop.dev/stage"] == "serve"]
    return {
        leader["metadata"]["name"]: [
            leader,
            *(pod for pod in pods if pod["metadata"]["ownerReferences"][0]["uid"] == leader["metadata"]["uid"]),
        ]
        for leader in leaders
    }


def asked(lab: Lab, pod: Obj, seconds: int) -> Obj:
    """What a client saw that asked this pod alone for some time."""
    url = f"http://{pod['status']['podIP']}:{API_PORT}/v1/completions"
    code = ASKS.replace("NAME", NAME).replace("SECONDS", str(seconds)).replace("URL", url)
    result: Obj = json.loads(lab.run_pod("asks-one-group", lab.installed.images["operator"], ["python3", "-c", code]))
    return result


def test_a_group_that_loses_its_worker_comes_back_as_a_whole_and_the_other_loses_no_request(served: Lab) -> None:
    lab, before = served, groups(served)
    assert {len(pods) for pods in before.values()} == {2}
    for pods in before.values():
        assert len({pod["spec"]["nodeName"] for pod in pods}) == 2, "a group has both nodes"
    (lost, [_, worker]), (kept, [leader, _]) = before.items()

    with ThreadPoolExecutor() as pool:
        client = pool.submit(asked, lab, leader, 120)
        time.sleep(20)
        lab.kube.run("delete", "pod", worker["metadata"]["name"], "-n", lab.namespace, "--grace-period=0", "--force")
        lab.kube.wait("the leader's end", lambda: lost not in groups(lab), 60)
        result = client.result()

    assert result["failed"] == []
    assert result["answered"] > 20
    both_ready(lab)
    after = groups(lab)
    assert {len(pods) for pods in after.values()} == {2}
    assert kept in after
    assert [pod["metadata"]["uid"] for pod in after[kept]] == [pod["metadata"]["uid"] for pod in before[kept]]
    [event, *_] = [event for event in lab.events(NAME) if event["reason"] == "GroupRestarted"]
    assert lost in event["message"]


def test_a_leader_takes_its_workers_with_it(served: Lab) -> None:
    lab = served
    both_ready(lab)
    (ended, pods), _ = groups(lab).items()
    workers = {pod["metadata"]["uid"] for pod in pods[1:]}
    lab.kube.run("delete", "pod", ended, "-n", lab.namespace, "--wait=false")

    def gone() -> bool:
        return not workers & {pod["metadata"]["uid"] for pod in lab.list("pods", f"driftloop.dev/service={NAME}")}

    lab.kube.wait("the end of its workers", gone, 180)
    both_ready(lab)
    assert ended not in groups(lab)
    assert {len(found) for found in groups(lab).values()} == {2}

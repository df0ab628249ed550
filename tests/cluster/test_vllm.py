"""The whole loop on vLLM. And a service moves to vLLM and back under load, and drains and fails there as elsewhere."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cluster.lab import TRAINED, Lab, tiny_pools
from cluster.looprun import STAGES, begun
from demo.install import CLAIM
from demo.kube import Kube
from demo.manifests import VLLM
from demo.reads import Obj
from demo.traffic import Traffic
from driftloop.contract.names import METRICS_PORT
from driftloop.controller.vocabulary.labels import VERSION
from driftloop_server.engine.metrics import EngineMetrics
from testcluster import wait
from testcluster.client import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400), pytest.mark.long("vllm")]

NAME = "on-vllm"
ADAPTER: Obj = {
    "training": {"adapter": {"type": "lora"}, "numTrainEpochs": 1},
    "output": {"mergeAdapter": False},
}
BUILT_IN: Obj = {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}}


@pytest.fixture(scope="module")
def vllm(cluster: Cluster) -> Obj:
    """The settings of the engine vLLM."""
    image = cluster.provider.provide_images(["vllm"])["vllm"]
    return VLLM | {"image": image}


def service(engine: Obj) -> Obj:
    spec = {
        "model": {"family": TRAINED},
        "replicas": 1,
        "drainSeconds": 20,
        "canary": {
            "minRequests": 30,
            "minSeconds": 5,
            "maxErrorRateIncrease": 0.1,
            "maxLatencyRatio": 100,
            "progressDeadlineSeconds": 300,
        },
        "feedback": {"storage": f"pvc://{CLAIM}/{NAME}/feedback"},
        "engine": engine,
    }
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": NAME},
        "spec": spec,
    }


def status(lab: Lab) -> Obj:
    found: Obj = lab.get("inferenceservice", NAME).get("status", {})
    return found


def revision_after(lab: Lab, before: str) -> str:
    """Wait until another revision than `before` is stable, without a candidate. Returns it."""

    def promoted() -> str | None:
        found = status(lab)
        stable = (found.get("stable") or {}).get("revision")
        return stable if stable != before and found.get("phase") == "Serving" and not found.get("candidate") else None

    revision: str = lab.kube.wait("promotion", promoted, 900, tell=lambda: str(status(lab)))
    return revision


def engines(lab: Lab) -> set[str]:
    """The images of the engines that serve now."""
    pods = [p for p in lab.list("pods", f"driftloop.dev/service={NAME}") if "deletionTimestamp" not in p["metadata"]]
    return {c["image"] for p in pods for c in p["spec"]["initContainers"] if c["name"] == "engine"}


@pytest.fixture(scope="module")
def traffic(lab: Lab, trained: str) -> Iterator[Traffic]:
    """A service on the built-in engine under a load of which every tenth request is streamed."""
    lab.apply(service(BUILT_IN))
    revision_after(lab, "")
    with Traffic(lab.kube, lab.namespace, lab.installed.images["operator"], NAME, {"old": tiny_pools().traffic}) as run:
        run.phase("moves", 5, old=1.0)
        yield run
    lab.kube.run("delete", "inferenceservice", NAME, "-n", lab.namespace)


def metric_names(lab: Lab) -> set[str]:
    """Names of the engine's metrics that the proxy of a serving pod passes on."""
    (pod, *_) = [
        p for p in lab.list("pods", f"driftloop.dev/service={NAME}") if "deletionTimestamp" not in p["metadata"]
    ]
    code = f"import urllib.request as r; print(r.urlopen('http://{pod['status']['podIP']}:{METRICS_PORT}/metrics').read().decode())"
    text = lab.run_pod("reads-metrics", lab.installed.images["operator"], ["python3", "-c", code])
    return {family.name for family in text_string_to_metric_families(text) if family.name.startswith("vllm:")}


def judged_by(kube: Kube, namespace: str, version: str) -> set[str]:
    """The images of the engines in the evaluation pods of a version."""
    jobs = [job for job in kube.list("jobs", namespace) if job["metadata"]["labels"].get(VERSION) == version]
    containers = [each for job in jobs for each in job["spec"]["template"]["spec"]["initContainers"]]
    return {each["image"] for each in containers if each["name"] == "engine"}


def engine_hash(kube: Kube, namespace: str, version: str) -> str:
    """The hash of the engine that has judged a version."""
    found = kube.get("modelversion", version, namespace)
    assert found is not None
    return str(found["status"]["engine"])


def lost_nothing(traffic: Traffic) -> bool:
    beyond = traffic.sent("moves") + 30
    wait.until(lambda: traffic.sent("moves") > beyond, "more requests", 180)
    time.sleep(2)
    counts = traffic.by_phase["moves"]
    return counts["failed"] == 0 and counts["refused"] == 0


def test_a_service_moves_to_vllm_drains_there_rolls_back_and_returns_and_loses_no_request(
    lab: Lab, vllm: Obj, traffic: Traffic
) -> None:
    built_in = status(lab)["stable"]["revision"]

    lab.apply(service(vllm))
    on_vllm = revision_after(lab, built_in)
    assert engines(lab) == {vllm["image"]}
    assert lost_nothing(traffic), traffic.totals()

    assert {family.name for family in EngineMetrics("m").registry.collect()} <= metric_names(lab)

    # Another setting is another revision: the pods of the old one end while they stream.
    lab.apply(service(vllm | {"maxNumSeqs": 16}))
    drained = revision_after(lab, on_vllm)
    assert lost_nothing(traffic), traffic.totals()

    lab.apply(service(vllm | {"args": ["--enforce-eager", "--no-such-argument"]}))

    lab.kube.wait("a rollback", lambda: status(lab).get("failedRevisions"), 900, tell=lambda: str(status(lab)))
    assert status(lab)["stable"]["revision"] == drained
    assert lost_nothing(traffic), traffic.totals()

    lab.apply(service(BUILT_IN))
    revision_after(lab, drained)
    assert vllm["image"] not in engines(lab)
    assert lost_nothing(traffic), traffic.totals()


def test_vllm_serves_an_adapter_beside_its_base_as_it_serves_both_merged(lab: Lab, vllm: Obj, trained: str) -> None:
    """In float32, so that both answers are the same. The evaluation asks the engine of the service in the same way."""
    evaluation = {"engine": vllm | {"adapters": {}}}
    lab.pretrain("beside", model={"from": {"family": TRAINED}}, evaluation=evaluation, **ADAPTER)
    version = lab.judged(lab.phase("beside", "Succeeded")["status"]["version"])
    assert version["status"]["phase"] == "AwaitingApproval", version["status"]
    lab.approve(version["metadata"]["name"])

    def answer(name: str, engine: Obj) -> tuple[str, Obj]:
        spec = {"model": {"family": "beside"}, "replicas": 1, "engine": engine}
        lab.apply(service(engine) | {"metadata": {"name": name}, "spec": spec})

        def serving() -> bool:
            found = lab.get("inferenceservice", name).get("status", {})
            return found.get("phase") == "Serving" and bool(found.get("stable"))

        lab.kube.wait("the adapter in service", serving, 900, tell=lambda: str(lab.get("inferenceservice", name)))
        ask = (
            "import json,urllib.request as r;"
            "b=json.dumps({'prompt':'where is','max_tokens':8,'temperature':0,'ignore_eos':True}).encode();"
            f"u='http://{name}.{lab.namespace}.svc/v1/';"
            "q=r.Request(u+'completions',b,{'Content-Type':'application/json'});"
            "print(json.dumps([json.load(r.urlopen(x,timeout=60)) for x in (q,u+'models')]))"
        )
        said, models = json.loads(lab.run_pod(f"asks-{name}", lab.installed.images["operator"], ["python3", "-c", ask]))
        assert said["model"] == name
        assert [model["id"] for model in models["data"]] == [name]
        lab.kube.run("delete", "inferenceservice", name, "-n", lab.namespace)
        return said["choices"][0]["text"], said["usage"]

    assert answer("beside", vllm | {"adapters": {}}) == answer("merged", vllm)


def test_the_whole_loop_runs_on_vllm_through_kills_of_the_operator(tmp_path: Path) -> None:
    with begun(tmp_path, "loop-on-vllm", "--engine", "vllm") as run:
        ended = run.end()

    report = ended.report
    assert sorted(ended.killed_at) == sorted(STAGES)
    assert report["requests"]["failed"] == 0, report["requests"]["errors"]
    assert report["requests"]["refused"] == 0, report["requests"]
    assert report["alert"]["alarmsBeforeShift"] == 0
    before, after = report["versions"][-2:]
    assert after["accuracyShifted"] >= before["accuracyShifted"] + 0.3
    assert after["accuracyInDomain"] >= before["accuracyInDomain"] - 0.03
    service = ended.kube.get("inferenceservice", "support-desk", "loop-on-vllm")
    assert service is not None
    assert service["status"]["stable"]["engine"] == "vllm"
    # The Jobs of the first evaluation are gone by now, but not the hash of its engine.
    assert judged_by(ended.kube, "loop-on-vllm", after["name"]) == {report["cluster"]["images"]["vllm"]}
    assert engine_hash(ended.kube, "loop-on-vllm", before["name"]) == engine_hash(
        ended.kube, "loop-on-vllm", after["name"]
    )

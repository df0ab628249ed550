"""Trainings that the loop has none of: on from a failed one, an adapter as a version, and a loop of the user's own."""

import json

import pytest

from cluster.interruptions import lose_pod
from cluster.lab import LONG, STEPS, TRAINED, Lab, source
from demo.install import CLAIM
from demo.reads import Obj
from testcluster.client import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.long("trainings")]

ADAPTER: Obj = {
    "training": {"adapter": {"type": "lora"}, "numTrainEpochs": 1},
    "output": {"mergeAdapter": False},
}


def test_a_job_goes_on_from_the_last_checkpoint_of_one_that_failed(lab: Lab) -> None:
    storage = f"pvc://{CLAIM}/failed"
    lab.pretrain("failed", training=LONG, compute={"backoffLimit": 0})
    seen = lab.checkpoint_beyond("failed", 20)
    lose_pod(lab, "failed", index=1)
    lab.phase("failed", "Failed")
    lab.pretrain("continued", training=LONG, storage=storage, resumeFrom="failed")
    lab.phase("continued", "Succeeded")
    result = lab.train_result("continued")
    assert result.steps == STEPS
    assert result.resumed_from_step >= seen


def adapter(lab: Lab, name: str, family: str) -> Obj:
    """The approved version of a job that trains an adapter on the last version of `family`."""
    lab.pretrain(name, model={"from": {"family": family}}, **ADAPTER)
    version = lab.judged(lab.phase(name, "Succeeded")["status"]["version"])
    # Its API was checked in a serving pod, which merged the adapter into its base. It has no suites.
    assert version["status"]["phase"] == "AwaitingApproval", version["status"]
    lab.approve(version["metadata"]["name"])
    return version


def test_an_adapter_on_an_adapter_is_served_and_has_no_weights_of_its_base(lab: Lab, trained: str) -> None:
    first, second = adapter(lab, "adapted", TRAINED), adapter(lab, "adapted-again", "adapted")
    assert [len(version["spec"]["artefact"]["bases"]) for version in (first, second)] == [1, 2]
    folder = second["spec"]["artefact"]["uri"].removeprefix("pvc://")
    weights = [f for f in lab.shell(f"ls /volumes/{folder}").split() if f.endswith(".safetensors")]
    assert weights == ["adapter_model.safetensors"]

    spec = {"model": {"family": "adapted-again"}, "replicas": 1}
    lab.apply(
        {
            "apiVersion": "driftloop.dev/v1alpha1",
            "kind": "InferenceService",
            "metadata": {"name": "adapted"},
            "spec": spec,
        }
    )

    def serving() -> bool:
        status = lab.get("inferenceservice", "adapted").get("status", {})
        return status.get("phase") == "Serving" and bool(status.get("stable"))

    lab.kube.wait("the adapter in service", serving, 300, tell=lambda: str(lab.get("inferenceservice", "adapted")))
    ask = (
        "import json,urllib.request as r;"
        "b=json.dumps({'model':'adapted','prompt':'where is','max_tokens':4,'temperature':0}).encode();"
        f"q=r.Request('http://adapted.{lab.namespace}.svc/v1/completions',b,{{'Content-Type':'application/json'}});"
        "print(r.urlopen(q,timeout=30).read().decode())"
    )
    answer = json.loads(lab.run_pod("asks", lab.installed.images["operator"], ["python3", "-c", ask]))
    assert answer["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("entrypoint", ["plain_torch:train", "trl_sft:train"])
def test_a_loop_of_the_users_own_runs_in_an_image_of_the_users_own(
    lab: Lab, cluster: Cluster, trained: str, entrypoint: str
) -> None:
    image = cluster.provider.provide_images(["entrypoint"])["entrypoint"]
    name = entrypoint.partition(":")[0].replace("_", "-")
    lab.pretrain(
        name,
        model={"from": {"family": TRAINED}},
        data={"sources": [source("requests", "requests.csv", prompt="text", completion="category")]},
        training={"method": "sft", "entrypoint": entrypoint, "image": image, "maxSteps": 6, "saveSteps": 3},
    )
    version = lab.judged(lab.phase(name, "Succeeded")["status"]["version"])
    assert lab.train_result(name).steps == 6
    assert version["status"]["phase"] == "AwaitingApproval", version["status"]

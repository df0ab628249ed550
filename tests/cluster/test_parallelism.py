"""Trainings whose workers divide the model by more than shards, on two nodes. One worker of each is lost."""

from collections.abc import Mapping

import pytest

from cluster.interruptions import MAIN, interrupt
from cluster.lab import LONG, STEPS, Lab
from demo.reads import Obj

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.long("faults")]

MESHES: Mapping[str, Obj] = {
    "pipeline2": {"parallelism": {"pipeline": 2}},
    "context2": {"parallelism": {"context": 2}},
    "fsdp2 x tensor2": {"parallelism": {"tensor": 2}, "workersPerNode": 2},
}


@pytest.mark.parametrize("mesh", MESHES)
def test_a_lost_worker_of_a_mesh_costs_a_checkpoint_interval_and_its_model_is_served(lab: Lab, mesh: str) -> None:
    name = mesh.replace(" x ", "-")
    lab.pretrain(name, training=LONG, compute=MESHES[mesh])
    lost = interrupt(lab, name, [MAIN])[MAIN]
    status = lab.phase(name, "Succeeded")["status"]
    assert status["plan"]["strategy"] == mesh
    assert mesh in lab.kube.run("get", "finetunejob", name, "-n", lab.namespace)
    assert lost.resumed >= lost.seen > 0, "a checkpoint was lost"
    assert lab.train_result(name).steps == STEPS
    # Its API was checked in a serving pod. It has no suites, so a person must approve it.
    assert lab.judged(status["version"])["status"]["phase"] == "AwaitingApproval"

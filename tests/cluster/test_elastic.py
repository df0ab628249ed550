"""A training with `compute.elastic` goes on with fewer nodes after one was lost, and with all once it is back."""

import pytest

from cluster.interruptions import heal
from cluster.lab import Lab, nodes_without_operator
from demo.reads import Obj
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200), pytest.mark.long("faults")]

STEPS = 100_000  # it never ends by itself, as Kubernetes needs minutes to notice the loss and the return


def test_a_training_shrinks_with_a_lost_node_grows_when_it_is_back_and_loses_no_checkpoint(lab: Lab) -> None:
    name = "elastic"
    lab.pretrain(
        name,
        training={"maxSteps": STEPS, "saveSteps": 40},
        compute={"elastic": {"minNodes": 1, "waitSeconds": 5}, "backoffLimit": 0},  # no loss counts as a retry
    )
    seen = lab.checkpoint_beyond(name, 0)
    (node,) = nodes_without_operator(lab.kube)
    lab.installed.provider.fail_node(node)
    try:
        fewer = lab.kube.wait("one node to train", lambda: training_on(lab, name, 1), 400, tell=lambda: lab.story(name))
    finally:
        heal(lab, node)
    assert fewer["reason"] == "FewerNodes"
    assert "1 of 2 nodes" in fewer["message"]

    wait.until(lambda: training_on(lab, name, 2) is not None, "both nodes to train", 300)
    starts = list(lab.starts(name, 2))
    lab.checkpoint_beyond(name, starts[-1])
    lab.kube.run("delete", "finetunejob", name, "-n", lab.namespace)

    assert len(starts) == 3, starts  # on two nodes, on one, on two
    assert starts == sorted(starts)
    assert starts[1] >= seen


def training_on(lab: Lab, name: str, nodes: int) -> Obj | None:
    """The condition Reconciling of a job that trains on so many nodes now; None while it does not."""
    status = lab.get("finetunejob", name)["status"]
    if (status.get("progress") or {}).get("nodes") != nodes:
        return None
    found: Obj = next(entry for entry in status["conditions"] if entry["type"] == "Reconciling")
    return found

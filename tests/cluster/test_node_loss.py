"""A job is created again with the same name, and its node is lost. The tests before this one ran meanwhile."""

import pytest

from cluster.interruptions import NodeLoss
from cluster.lab import STEPS, Lab
from cluster.looprun import LoopRun

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_a_job_made_again_is_another_one_and_a_lost_node_costs_it_a_checkpoint_interval(
    lab: Lab, trained: str, node_lost: NodeLoss, loop_beside: LoopRun | None
) -> None:
    assert loop_beside is None or loop_beside.running(), "the loop, started when the node was lost, has ended"
    second = lab.phase(trained, "Succeeded")["status"]["version"]
    result = lab.train_result(trained)
    assert result.steps == STEPS
    assert result.resumed_from_step >= node_lost.seen
    pods = lab.list("pods", f"driftloop.dev/job={trained},driftloop.dev/stage=train")
    done = next(pod for pod in pods if pod["status"]["phase"] == "Succeeded")
    assert done["spec"]["nodeName"] != node_lost.node
    assert second != node_lost.first
    assert {node_lost.first, second} <= {version["metadata"]["name"] for version in lab.list("modelversions")}
    node_lost.heal()

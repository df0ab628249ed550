"""A node lost for good while it trains: another takes the training over. The faults tested before came meanwhile."""

import pytest

from cluster.interruptions import NodeLoss
from cluster.lab import STEPS, Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_a_lost_node_costs_a_checkpoint_interval(lab: Lab, node_lost: NodeLoss) -> None:
    lab.phase(node_lost.job, "Succeeded")
    result = lab.train_result(node_lost.job)
    assert result.steps == STEPS
    assert result.resumed_from_step >= node_lost.seen
    pods = lab.list("pods", f"driftloop.dev/job={node_lost.job},driftloop.dev/stage=train")
    done = next(pod for pod in pods if pod["status"]["phase"] == "Succeeded")
    assert done["spec"]["nodeName"] != node_lost.node
    node_lost.heal()

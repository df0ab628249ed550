"""Training resumes from the last checkpoint after lost pods and a suspension."""

import pytest

from cluster.interruptions import INTERRUPTS, MAIN, Interruption
from cluster.lab import STEPS, Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_a_lost_worker_costs_a_checkpoint_interval(
    lab: Lab, trained: str, interrupted: dict[str, Interruption]
) -> None:
    assert interrupted[MAIN].resumed >= interrupted[MAIN].seen > 0, "a checkpoint was lost"
    assert lab.train_result(trained).steps == STEPS


@pytest.mark.long("faults")
def test_a_lost_worker_a_lost_head_and_a_suspension_cost_a_checkpoint_interval_each(
    lab: Lab, trained: str, interrupted: dict[str, Interruption]
) -> None:
    assert set(interrupted) == set(INTERRUPTS)
    for what, interruption in interrupted.items():
        assert interruption.resumed >= interruption.seen > 0, f"{what}: a checkpoint was lost"
    assert lab.train_result(trained).steps == STEPS
    assert lab.get("finetunejob", trained)["status"]["attempt"] == 2

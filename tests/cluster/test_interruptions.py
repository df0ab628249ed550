"""Training resumes from the last checkpoint after lost pods and a suspension."""

import pytest

from cluster.interruptions import INTERRUPTS, MAIN, Interruption, suspend_and_resume
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


@pytest.mark.long("faults")
def test_a_suspended_training_writes_a_checkpoint_inside_its_grace_period(lab: Lab) -> None:
    """The only checkpoint of its settings is at the end."""
    name = "unsaved"
    lab.pretrain(name, training={"maxSteps": 100_000, "saveSteps": 100_000})

    def step() -> int:
        return int((lab.get("finetunejob", name)["status"].get("progress") or {}).get("step") or 0)

    lab.kube.wait("steps", lambda: step() > 0, 300, tell=lambda: lab.story(name))
    reached = step()
    suspend_and_resume(lab, name)
    starts = list(lab.starts(name, 1))

    assert len(starts) == 2
    assert starts[1] >= reached
    lab.kube.run("delete", "finetunejob", name, "-n", lab.namespace)

"""Every choice of the plan has its reason, in words that a status can hold."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import CheckpointMode, FineTuneJob, GradientReduction, PlanStatus
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from driftloop.controller.kinds.finetunejob.why import why_axes, why_checkpoints, why_reduction, why_rows
from unit.controller.stages import facts, job, prepared

SIZES = st.integers(1, 10**15)


@given(parameters=st.integers(1_000_000, 10**12), limit=st.sampled_from([None, "2Gi", "64Gi", "900Ti"]))
def test_a_plan_has_a_reason_for_each_of_its_choices(parameters: int, limit: str | None) -> None:
    compute = {"nodes": 2, "resources": {"limits": {"memory": limit} if limit else {}}}
    found = plan(FineTuneJob.model_validate(job(compute=compute)).spec, prepared(model=facts(parameters)))
    if isinstance(found, TrainingPlan):
        status = PlanStatus.model_validate(found.status.dump())
        assert status.reasons is not None
        chosen = {"strategy", "perDeviceTrainBatchSize", "gradientReduction", "checkpoints", "compile"}
        chosen |= {"attention", "kernels"}
        assert chosen <= set(found.status.dump())
        assert set(status.reasons) == chosen | {"pipeline", "replicate", "fsdp", "context", "tensor", "exactness"}


@given(available=st.none() | SIZES, larger=st.none() | st.tuples(st.integers(2, 4096), SIZES))
def test_rows_are_limited_by_memory_or_by_the_spec(available: int | None, larger: tuple[int, int] | None) -> None:
    told = why_rows(available, larger)
    assert ("would need" in told) == (available is not None and larger is not None)
    assert len(told) <= 256


@pytest.mark.parametrize("mode", get_args(CheckpointMode))
@pytest.mark.parametrize("reduction", get_args(GradientReduction))
def test_all_values_have_words(mode: CheckpointMode, reduction: GradientReduction) -> None:
    assert why_reduction(reduction, 5 << 30, 1 << 30).startswith("the whole gradient has 5.00 GiB")
    assert "limit of 2Gi has" in why_checkpoints(mode, "2Gi")
    assert "no limit" in why_checkpoints("asynchronous", None)


def test_why_shards_alone_are_enough_or_not() -> None:
    assert why_axes(1, 1, None).startswith("shards alone are enough")
    assert why_axes(1, 4, None).startswith("each of 4 groups of nodes holds the model")
    longest = why_axes(8, 1, f"a worker needs {10**6}.00 GiB of {10**6}.00 GiB for one row")
    assert "shards alone are not enough (a worker needs" in longest
    assert len(longest) <= 256

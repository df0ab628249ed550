"""After a training that ran out of memory the next attempt needs less, and computes the same."""

import math
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import Adjustment, FineTuneJob, FineTuneJobStatus, TrainingSpec
from driftloop.api.modelversion import Lineage
from driftloop.contract.task import ModelSource, TrainTask
from driftloop.controller.kinds.finetunejob.ladder import adjustment_message, decode, encode, lowered, next_rung
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from driftloop.controller.pods.outcome import Broken
from unit.controller.stages import NOW, digest, job, prepared

SHORT = Broken("OOMKilled", "container train of tune-1 used more memory than its limit")


def attempt(number: int, rows: int, checkpointing: bool = False) -> TrainTask:
    return TrainTask(
        job="tune",
        job_uid="uid",
        family="support",
        model=ModelSource(uri="pvc://shared/base"),
        data_uri="pvc://shared/data",
        data_digest=digest(),
        training=TrainingSpec(gradient_checkpointing=checkpointing),
        nodes=1,
        workers_per_node=1,
        gpus_per_node=0,
        gradient_accumulation_steps=1,
        per_device_train_batch_size=rows,
        total_steps=1,
        head="tune-0",
        startup_timeout_seconds=60,
        backoff_limit=3,
        attempt=number,
        runs="pvc://shared/runs/uid",
        output="pvc://shared/versions/uid",
        lineage=Lineage(),
    )


def test_half_of_the_rows_come_first_then_checkpointing_then_nothing() -> None:
    rungs: list[Adjustment] = []
    rows, checkpointing = 12, False
    while rung := next_rung(attempt(len(rungs) + 1, rows, checkpointing), SHORT, NOW):
        rungs.append(rung)
        rows, checkpointing = rung.per_device_train_batch_size, rung.gradient_checkpointing
    lowered_to = [(rung.attempt, rung.per_device_train_batch_size, rung.gradient_checkpointing) for rung in rungs]
    assert lowered_to == [(1, 6, False), (2, 3, False), (3, 1, False), (4, 1, True)]
    assert {rung.reason for rung in rungs} == {"OOMKilled"}


@given(
    rows=st.integers(1, 4096),
    batch=st.integers(2, 65_536),
    checkpointing=st.booleans(),
    nodes=st.integers(1, 2),
    limit=st.sampled_from(["900Mi", "2Gi", "64Gi"]),
)
def test_the_ladder_ends_and_every_rung_trains_on_the_same_rows(
    rows: int, batch: int, checkpointing: bool, nodes: int, limit: str
) -> None:
    training = {"perDeviceTrainBatchSize": rows, "trainBatchSize": batch, "gradientCheckpointing": checkpointing}
    compute = {"nodes": nodes, "resources": {"limits": {"memory": limit}}}
    spec = FineTuneJob.model_validate(job(training=training, compute=compute)).spec
    data = prepared()
    first = plan(spec, data)
    assert isinstance(first, TrainingPlan)
    now, adjustments = first, list[Adjustment]()
    for number in range(1, 20):
        micro, recompute = now.per_device_train_batch_size, lowered(spec, adjustments).training.gradient_checkpointing
        rung = next_rung(attempt(number, micro, recompute), SHORT, NOW)
        if rung is None:
            break
        adjustments.append(rung)
        found = plan(lowered(spec, adjustments), data)
        assert isinstance(found, TrainingPlan)
        assert found.status.total_steps == first.status.total_steps
        per_pass = nodes * found.per_device_train_batch_size
        assert found.status.gradient_accumulation_steps == math.ceil(batch / per_pass)
        assert found.per_device_train_batch_size < micro or rung.gradient_checkpointing > recompute
        now = found
    else:
        raise AssertionError("the ladder does not end")
    assert (now.per_device_train_batch_size, lowered(spec, adjustments).training.gradient_checkpointing) == (1, True)
    FineTuneJobStatus.model_validate({"adjustments": [entry.dump() for entry in adjustments]})


def test_the_message_tells_what_was_lowered_and_why() -> None:
    for before, words in ((attempt(1, 8), "at most 4 instead of 8 rows"), (attempt(1, 1), "gradientCheckpointing: tr")):
        rung = next_rung(before, SHORT, NOW)
        assert rung is not None
        assert "attempt 1 ran out of memory: container train of tune-1" in adjustment_message(before, rung)
        assert f"attempt 2 goes on from the last checkpoint with {words}" in adjustment_message(before, rung)


def test_a_job_keeps_its_adjustments_and_a_changed_annotation_has_none() -> None:
    long = Broken("OutOfMemory", "x" * 2000)
    rungs = [next_rung(attempt(1, 8), SHORT, NOW), next_rung(attempt(2, 4), long, NOW + timedelta(hours=1))]
    kept = [rung for rung in rungs if rung is not None]
    assert decode(encode(kept)) == tuple(kept)
    assert decode("[{}]") == decode("no JSON") == ()

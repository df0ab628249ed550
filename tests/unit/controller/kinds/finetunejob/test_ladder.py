"""After a training that ran out of memory the next attempt needs less, and computes the same."""

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import Adjustment, FineTuneJob, FineTuneJobStatus, TrainingSpec
from driftloop.api.modelversion import Lineage
from driftloop.contract.phase import BESIDE_STEPS, BesideSteps
from driftloop.contract.result import PrepareResult
from driftloop.contract.task import ModelSource, TrainTask
from driftloop.controller.kinds.finetunejob.ladder import adjustment_message, decode, encode, lowered, next_rung
from driftloop.controller.kinds.finetunejob.memory import logits_bytes
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from driftloop.controller.pods.outcome import Broken
from driftloop.controller.vocabulary.quantity import quantity
from unit.controller.stages import NOW, digest, facts, job, prepared

SHORT = Broken("OOMKilled", "container train of tune-1 used more memory than its limit")


def attempt(number: int, rows: int, checkpointing: bool = False, logits: str | None = None) -> TrainTask:
    return TrainTask(
        job="tune",
        job_uid="uid",
        family="support",
        model=ModelSource(uri="pvc://shared/base"),
        data_uri="pvc://shared/data",
        data_digest=digest(),
        training=TrainingSpec(max_length=4096, gradient_checkpointing=checkpointing, logits_memory=logits),
        nodes=1,
        workers_per_node=1,
        gpus_per_node=0,
        gradient_accumulation_steps=1,
        per_device_train_batch_size=rows,
        logits_bytes=quantity(logits or "256Mi"),
        total_steps=1,
        head="tune-0",
        startup_timeout_seconds=60,
        backoff_limit=3,
        attempt=number,
        runs="pvc://shared/runs/uid",
        output="pvc://shared/versions/uid",
        lineage=Lineage(),
    )


def data_of(longest_row_tokens: int, chunked_loss: bool = True) -> PrepareResult:
    model = facts().model_copy(update={"vocab_size": 32_768, "chunked_loss": chunked_loss})
    return prepared(model=model, longest_row_tokens=longest_row_tokens)


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (data_of(4096), ["64Mi", "16Mi"]),
        (data_of(400), ["16Mi"]),  # 64 MiB are the logits of 512 tokens
        (data_of(100), []),
        (data_of(4096, chunked_loss=False), []),
        (None, ["64Mi", "16Mi"]),
    ],
    ids=["long rows", "shorter rows", "rows within the least limit", "a type that needs all logits", "not known"],
)
def test_half_of_the_rows_come_first_then_checkpointing_then_the_loss_of_fewer_tokens_then_nothing(
    data: PrepareResult | None, limits: list[str]
) -> None:
    rungs: list[Adjustment] = []
    task = attempt(1, 12)
    while rung := next_rung(task, data, SHORT, NOW):
        rungs.append(rung)
        now = (rung.per_device_train_batch_size, rung.gradient_checkpointing, rung.logits_memory)
        task = attempt(len(rungs) + 1, *now)
    lowered_to = [
        (rung.attempt, rung.per_device_train_batch_size, rung.gradient_checkpointing, rung.logits_memory)
        for rung in rungs
    ]
    last = [(5 + number, 1, True, limit) for number, limit in enumerate(limits)]
    assert lowered_to == [(1, 6, False, None), (2, 3, False, None), (3, 1, False, None), (4, 1, True, None), *last]
    assert {rung.reason for rung in rungs} == {"OOMKilled"}


@pytest.mark.parametrize("phase", BESIDE_STEPS)
@pytest.mark.parametrize("rows", [1, 32])
def test_nothing_is_lowered_for_an_attempt_that_could_not_hold_the_model(phase: BesideSteps, rows: int) -> None:
    assert next_rung(attempt(1, rows), data_of(4096), replace(SHORT, phase=phase), NOW) is None


def test_nothing_is_lowered_for_a_pod_with_gpus_whose_own_memory_is_too_small() -> None:
    on_gpus = attempt(1, 32).model_copy(update={"gpus_per_node": 8})
    assert next_rung(on_gpus, data_of(4096), SHORT, NOW) is None
    rung = next_rung(on_gpus, data_of(4096), Broken("OutOfMemory", "rank 3: CUDA out of memory"), NOW)
    assert rung is not None


def test_the_plan_of_an_attempt_with_the_loss_of_fewer_tokens_needs_less() -> None:
    spec = FineTuneJob.model_validate(job(training={"maxLength": 4096, "perDeviceTrainBatchSize": 1})).spec
    rung = next_rung(attempt(1, 1, checkpointing=True), data_of(4096), SHORT, NOW)
    assert rung is not None
    plans = [plan(changed, data_of(4096)) for changed in (spec, lowered(spec, [rung]))]
    logits = [found.status.memory_bytes_per_worker["logits"] for found in plans if isinstance(found, TrainingPlan)]
    assert logits == [512 << 20, 128 << 20]  # log-softmax and its gradient in float32


@given(
    rows=st.integers(1, 4096),
    batch=st.integers(2, 65_536),
    checkpointing=st.booleans(),
    nodes=st.integers(1, 2),
    limit=st.sampled_from(["900Mi", "2Gi", "64Gi"]),
    logits=st.sampled_from([None, "64Mi", "1Gi", "1Mi"]),
)
def test_the_ladder_ends_and_every_rung_trains_on_the_same_rows(
    rows: int, batch: int, checkpointing: bool, nodes: int, limit: str, logits: str | None
) -> None:
    training: dict[str, Any] = {
        "perDeviceTrainBatchSize": rows,
        "trainBatchSize": batch,
        "gradientCheckpointing": checkpointing,
        **({"logitsMemory": logits} if logits else {}),
    }
    compute = {"nodes": nodes, "resources": {"limits": {"memory": limit}}}
    spec = FineTuneJob.model_validate(job(training=training, compute=compute)).spec
    data = prepared()
    first = plan(spec, data)
    assert isinstance(first, TrainingPlan)
    now, adjustments = first, list[Adjustment]()
    for number in range(1, 20):
        micro, used = now.per_device_train_batch_size, lowered(spec, adjustments).training
        rung = next_rung(attempt(number, micro, used.gradient_checkpointing, used.logits_memory), None, SHORT, NOW)
        if rung is None:
            break
        adjustments.append(rung)
        found = plan(lowered(spec, adjustments), data)
        assert isinstance(found, TrainingPlan)
        assert found.status.total_steps == first.status.total_steps
        per_pass = nodes * found.per_device_train_batch_size
        assert found.status.gradient_accumulation_steps == math.ceil(batch / per_pass)
        assert (
            found.per_device_train_batch_size < micro
            or rung.gradient_checkpointing > used.gradient_checkpointing
            or logits_bytes(lowered(spec, adjustments).training) < logits_bytes(used)
        )
        now = found
    else:
        raise AssertionError("the ladder does not end")
    assert (now.per_device_train_batch_size, lowered(spec, adjustments).training.gradient_checkpointing) == (1, True)
    FineTuneJobStatus.model_validate({"adjustments": [entry.dump() for entry in adjustments]})


def test_the_message_tells_what_was_lowered_and_why() -> None:
    changes = (
        (attempt(1, 8), "at most 4 instead of 8 rows"),
        (attempt(1, 1), "gradientCheckpointing: true"),
        (attempt(1, 1, checkpointing=True), "logitsMemory: 64Mi"),
    )
    for before, words in changes:
        rung = next_rung(before, None, SHORT, NOW)
        assert rung is not None
        assert "attempt 1 ran out of memory: container train of tune-1" in adjustment_message(before, rung)
        assert f"attempt 2 goes on from the last checkpoint with {words}" in adjustment_message(before, rung)


def test_a_job_keeps_its_adjustments_and_a_changed_annotation_has_none() -> None:
    long = Broken("OutOfMemory", "x" * 2000)
    rungs = [
        next_rung(attempt(1, 8), None, SHORT, NOW),
        next_rung(attempt(2, 1, checkpointing=True), None, long, NOW + timedelta(hours=1)),
    ]
    kept = [rung for rung in rungs if rung is not None]
    assert decode(encode(kept)) == tuple(kept)
    assert decode("[{}]") == decode("no JSON") == ()

"""The plan spreads a model, counts steps, and refuses what cannot run; more workers never need more memory each."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobSpec, TrainingSpec
from driftloop.controller.finetunejob.plan import (
    Refusal,
    TrainingPlan,
    memory_per_worker,
    micro_batch,
    plan,
    quantity,
    total_steps,
)
from unit.controller.stages import facts, job, prepared


def spec(**parts: object) -> FineTuneJobSpec:
    return FineTuneJob.model_validate(job(**parts)).spec


def planned(found: TrainingPlan | Refusal) -> TrainingPlan:
    assert isinstance(found, TrainingPlan)
    return found


batches = st.builds(
    TrainingSpec,
    train_batch_size=st.integers(1, 4096),
    per_device_train_batch_size=st.integers(1, 512),
    max_length=st.integers(8, 8192),
    gradient_checkpointing=st.booleans(),
    bf16=st.booleans(),
    packing=st.booleans(),
)


@given(training=batches, parameters=st.integers(1000, 10**11), world=st.integers(1, 512))
def test_another_worker_never_makes_one_need_more(training: TrainingSpec, parameters: int, world: int) -> None:
    data = prepared(model=facts(parameters))
    few, many = (
        memory_per_worker(training, data, n, micro_batch(training, n), on_gpu=False) for n in (world, world + 1)
    )
    assert all(many[part] <= few[part] for part in few)


@given(training=batches, world=st.integers(1, 512))
def test_micro_batches_make_up_the_batch_and_none_is_too_large(training: TrainingSpec, world: int) -> None:
    micro = micro_batch(training, world)
    steps = math.ceil(training.train_batch_size / (world * micro))
    assert micro <= training.per_device_train_batch_size
    assert world * micro * (steps - 1) < training.train_batch_size <= world * micro * steps


@given(rows=st.integers(1, 10**7), epochs=st.floats(0.01, 100), batch=st.integers(1, 4096))
def test_the_steps_are_enough_for_the_epochs_and_not_one_more(rows: int, epochs: float, batch: int) -> None:
    steps = total_steps(TrainingSpec(num_train_epochs=epochs, train_batch_size=batch), rows)
    assert steps >= 1
    assert steps * batch >= rows * epochs
    assert steps == 1 or (steps - 1) * batch < rows * epochs


def test_max_steps_wins_over_epochs() -> None:
    assert total_steps(TrainingSpec(max_steps=7, num_train_epochs=100), 10**6) == 7


def test_packs_are_counted_not_rows() -> None:
    found = planned(plan(spec(), prepared(train_rows=1000, sequences=64)))
    assert found.status.total_steps == 4  # ceil(64 packs * 2 epochs / 32)


def test_the_parts_add_up_to_the_total() -> None:
    status = planned(plan(spec(), prepared())).status
    parts = dict(status.memory_bytes_per_worker)
    assert parts.pop("total") == sum(parts.values())
    assert status.world_size == 2
    assert parts["optimizer"] == 2 * parts["gradients"]


def test_the_estimate_is_near_what_a_gpu_had_in_use() -> None:
    """bench/stages.py --gpus 1 --model 110m --length 512 --batch 64, on an H200: 18,233 MiB of it."""
    model = facts(
        87_168_768,
        embedding_parameters=2_214_912,
        largest_layer_parameters=7_079_424,
        num_layers=12,
        hidden_size=768,
        intermediate_size=2048,
        vocab_size=2884,
    )
    training = TrainingSpec(
        train_batch_size=64, per_device_train_batch_size=64, max_length=512, packing=True, bf16=True
    )
    memory = memory_per_worker(training, prepared(model=model), 1, 64, on_gpu=True)
    assert memory["total"] == pytest.approx(18_233 << 20, rel=0.1)


def test_a_limit_on_memory_is_shared_by_the_workers_of_a_pod() -> None:
    compute = {"nodes": 2, "workersPerNode": 2, "resources": {"limits": {"memory": "4Gi"}}}
    status = planned(plan(spec(compute=compute), prepared())).status
    assert (status.world_size, status.available_bytes_per_worker) == (4, 2 << 30)


def test_what_does_not_fit_is_refused_with_numbers_and_remedies() -> None:
    found = plan(spec(), prepared(model=facts(8_000_000_000)))
    assert isinstance(found, Refusal)
    assert found.reason == "DoesNotFit"
    for part in ("GiB", "optimizer", "compute.nodes", "perDeviceTrainBatchSize"):
        assert part in found.message


@pytest.mark.parametrize(
    "compute",
    [{"nodes": 1}, {"nodes": 1, "gpusPerNode": 8, "workersPerNode": 8, "resources": {"limits": {"memory": "1Gi"}}}],
    ids=["no limit", "a GPU's memory is not known"],
)
def test_where_the_room_is_unknown_the_estimate_only_reports(compute: dict[str, object]) -> None:
    training = {"trainBatchSize": 32}
    status = planned(plan(spec(compute=compute, training=training), prepared(model=facts(8_000_000_000)))).status
    assert status.available_bytes_per_worker is None
    assert status.memory_bytes_per_worker["total"] > 8 << 30


@pytest.mark.parametrize("nothing", [{"train_rows": 0, "sequences": 0}, {"trained_tokens": 0}])
def test_nothing_to_train_on_is_refused(nothing: dict[str, int]) -> None:
    found = plan(spec(), prepared(**nothing))
    assert isinstance(found, Refusal)
    assert found.reason == "NoTrainingRows"


def test_a_batch_smaller_than_the_workers_is_refused() -> None:
    found = plan(spec(training={"trainBatchSize": 1}), prepared())
    assert isinstance(found, Refusal)
    assert found.reason == "BatchTooSmall"


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("1500m", 1), ("1.5Gi", 3 << 29), ("2G", 2 * 10**9), ("512Mi", 512 << 20)]
)
def test_quantities_are_read_as_kubernetes_does(text: str, value: int) -> None:
    assert quantity(text) == value

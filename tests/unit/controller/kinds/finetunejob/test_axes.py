"""If a job leaves it to the plan, the plan divides the model by as few cuts as fit, and only where that is exact."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobSpec, Parallelism
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.axes import SHARDS, replicas, ways, workers_per_row
from driftloop.controller.kinds.finetunejob.plan import Refusal, plan, plan_of_running
from unit.controller.kinds.finetunejob.test_plan import LLAMA_8B, planned
from unit.controller.kinds.finetunejob.test_remedies import LLAMA_70B
from unit.controller.stages import facts, job, prepared

MODEL = LLAMA_8B.model_copy(update={"chunked_loss": True, "document_attention": True})
LARGE = LLAMA_70B.model_copy(update={"chunked_loss": True, "document_attention": True})


def spec(nodes: int = 1, gpus: int = 8, compute: dict[str, Any] | None = None, **training: Any) -> FineTuneJobSpec:
    sizes = {"nodes": nodes, "gpusPerNode": gpus, "gpuMemory": "80Gi"} | (compute or {})
    given = {"trainBatchSize": 256, "maxLength": 4096, "gradientCheckpointing": True} | training
    return FineTuneJob.model_validate(job(compute=sizes, training=given)).spec


def strategy(wanted: FineTuneJobSpec, model: ModelFacts = MODEL, **options: Any) -> str:
    data = prepared(model=model, longest_row_tokens=wanted.training.max_length)
    return planned(plan(wanted, data, **options)).status.strategy


def test_one_node_whose_shards_fit_is_not_divided_further() -> None:
    assert strategy(spec()) == "fsdp8"


@pytest.mark.parametrize(
    ("nodes", "model", "expected"),
    [(2, MODEL, "replicate2 x fsdp8"), (32, MODEL, "replicate32 x fsdp8"), (8, LARGE, "replicate2 x fsdp32")],
)
def test_nodes_that_hold_the_model_exchange_only_gradients(nodes: int, model: ModelFacts, expected: str) -> None:
    assert strategy(spec(nodes), model) == expected


def test_answers_are_compared_in_replicas_only_where_that_is_exact() -> None:
    assert list(replicas(spec(2, method="dpo"), MODEL)) == [2]
    assert list(replicas(spec(2, method="dpo", adapter={"type": "osf"}), MODEL)) == []
    assert list(replicas(spec(2, adapter={"type": "osf"}), MODEL)) == [2]
    assert list(replicas(spec(2, method="dpo"), MODEL.model_copy(update={"model_type": "mistral"}))) == []
    assert list(replicas(spec(2), MODEL.model_copy(update={"model_type": "gpt2"}))) == []


def test_replicas_are_not_bought_with_smaller_micro_batches() -> None:
    data = prepared(model=MODEL, longest_row_tokens=4096)
    computes: list[dict[str, Any]] = [{"parallelism": {}}, {"parallelism": {"dataReplicate": 2}}, {}]
    rows = [
        planned(plan(spec(2, compute={"gpuMemory": "48Gi"} | compute), data)).per_device_train_batch_size
        for compute in computes
    ]
    assert rows == [16, 8, 16]


def test_if_the_memory_is_unknown_the_model_is_only_sharded() -> None:
    assert strategy(spec(2, compute={"gpuMemory": None})) == "fsdp16"


@pytest.mark.parametrize(
    ("wanted", "model", "expected"),
    [
        (spec(maxLength=131_072), MODEL, "fsdp4 x context2"),
        (spec(2), LARGE, "fsdp2 x context2 x tensor4"),
        (spec(2, maxLength=131_072, compute={"elastic": {"minNodes": 1}}), MODEL, "fsdp8 x tensor2"),
        (spec(2, trainBatchSize=8), MODEL, "fsdp8 x context2"),
    ],
)
def test_what_shards_alone_can_t_do_is_done_with_the_fewest_workers_per_row(
    wanted: FineTuneJobSpec, model: ModelFacts, expected: str
) -> None:
    data = prepared(model=model, longest_row_tokens=wanted.training.max_length)
    found = planned(plan(wanted, data))
    assert found.status.strategy == expected
    for way in ways(wanted, model):
        if workers_per_row(way) < workers_per_row(found.parallelism):
            compute = wanted.compute.model_copy(update={"parallelism": way})
            assert isinstance(plan(wanted.model_copy(update={"compute": compute}), data), Refusal)


def test_the_status_says_why() -> None:
    data = prepared(model=MODEL, longest_row_tokens=131_072)
    reasons = planned(plan(spec(maxLength=131_072), data)).status.reasons
    assert reasons is not None
    assert reasons["strategy"].startswith("shards alone are not enough (a worker needs")
    chosen = planned(plan(spec(compute={"parallelism": {}}), prepared(model=MODEL))).status.reasons
    assert chosen is not None
    assert chosen["strategy"] == "compute.parallelism says so"


@pytest.mark.parametrize(
    ("wanted", "model"),
    [
        (spec(compute={"parallelism": {}}), MODEL),
        (spec(method="dpo"), MODEL),
        (spec(adapter={"type": "osf"}), MODEL.model_copy(update={"model_type": "qwen3"})),
        (spec(adapter={"type": "qlora"}), MODEL),
        (spec(adapter={"type": "lora", "targetModules": ["q_proj"]}), MODEL),
        (spec(entrypoint="own:train"), MODEL),
        (spec(), MODEL.model_copy(update={"model_type": "gpt2"})),
    ],
)
def test_what_is_not_known_to_be_exact_is_left_to_the_job(wanted: FineTuneJobSpec, model: ModelFacts) -> None:
    if wanted.compute.parallelism is None:
        assert list(ways(wanted, model)) == [SHARDS]
    large = wanted.model_copy(update={"training": wanted.training.model_copy(update={"max_length": 400_000})})
    found = plan(large, prepared(model=model, longest_row_tokens=400_000))
    assert isinstance(found, Refusal) or found.parallelism == SHARDS


def test_a_small_batch_on_nodes_of_one_worker_is_not_cut_into_stages() -> None:
    small = FineTuneJob.model_validate(job(training={"trainBatchSize": 1})).spec
    found = plan(small, prepared(model=facts()))
    assert isinstance(found, Refusal)
    assert found.reason == "BatchTooSmall"


@given(nodes=st.integers(1, 16), gpus=st.integers(0, 8), workers=st.integers(1, 8), elastic=st.booleans())
def test_every_way_is_one_that_the_api_would_accept(nodes: int, gpus: int, workers: int, elastic: bool) -> None:
    sizes: dict[str, Any] = {"gpuMemory": None, "workersPerNode": 1 if gpus else workers}
    sizes |= {"elastic": {"minNodes": 1}} if elastic else {}
    wanted = spec(nodes, gpus, sizes)
    in_node = gpus or workers
    found = list(ways(wanted, MODEL))
    assert found[0] == SHARDS
    assert len(found) == len({way.model_dump_json() for way in found})
    assert [workers_per_row(way) for way in found] == sorted(workers_per_row(way) for way in found)
    for way in found:
        assert (nodes * in_node) % workers_per_row(way) == 0
        assert in_node % (way.context * way.tensor) == 0  # a row is cut within a node, but for stages
        assert not elastic or (way.pipeline, way.context) == (1, 1)
        assert Parallelism.model_validate(way.dump()) == way
    for count in replicas(wanted, MODEL):
        assert gpus > 1
        assert nodes % count == 0
        assert not elastic


def test_a_training_that_runs_keeps_the_division_that_was_chosen_when_the_memory_was_known() -> None:
    wanted, data = spec(2, compute={"gpuMemory": None}), prepared(model=MODEL, longest_row_tokens=4096)
    chosen = planned(plan(wanted, data, (80 << 30,)))
    later = planned(plan_of_running(wanted, data, (), chosen.parallelism))
    assert chosen.status.strategy == later.status.strategy == "replicate2 x fsdp8"
    assert planned(plan_of_running(wanted, data, (80 << 30,), chosen.parallelism)) == chosen

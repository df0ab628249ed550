"""What does not fit is refused with the smallest change that fits: one change before two, in a fixed order."""

from pathlib import Path
from typing import Any

import pytest

from driftloop.api.finetunejob import Adapter, Elastic, FineTuneJobSpec, Parallelism
from driftloop.cli.decoder import decoder_facts
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.plan import Refusal, TrainingPlan, plan
from driftloop.controller.kinds.finetunejob.remedies import (
    _CHANGES,
    _Case,
    _nodes,
    lora_parameters,
    plan_or_remedy,
    smallest_change,
)
from unit.controller.kinds.finetunejob.test_plan import LLAMA_8B, gpu_job, spec
from unit.controller.stages import facts, prepared

LORA = {"type": "lora"}
LLAMA_70B = LLAMA_8B.model_copy(
    update={
        "parameters": 70_553_706_496,
        "trainable_parameters": 70_553_706_496,
        "embedding_parameters": 1_050_673_152,
        "largest_layer_parameters": 855_654_400,
        "num_layers": 80,
        "hidden_size": 8192,
        "intermediate_size": 28_672,
    }
)
LONG = {"train_rows": 1000, "longest_row_tokens": 100_000}
NEW_MODEL = {"from": {"config": {"architecture": {"model_type": "llama"}}}}


def change(wanted: FineTuneJobSpec, model: ModelFacts = LLAMA_8B, **data: Any) -> str | None:
    given = prepared(model=model, **(LONG | data))
    assert isinstance(plan(wanted, given), Refusal)
    return smallest_change(wanted, given)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (gpu_job(8, "40Gi"), "training.gradientCheckpointing: true"),
        (gpu_job(8, "40Gi", bf16=False, gradientCheckpointing=True, maxLength=10_000), "training.bf16: true"),
        (gpu_job(1, gradientCheckpointing=True), "training.adapter.type: lora"),
        (
            gpu_job(8, maxLength=50_000, gradientCheckpointing=True, trainBatchSize=8),
            "compute.parallelism.context: 2",
        ),
        (gpu_job(1, maxLength=28_000), "training.gradientCheckpointing: true and training.adapter.type: lora"),
    ],
)
def test_the_first_change_that_fits_is_named(wanted: FineTuneJobSpec, expected: str) -> None:
    assert change(wanted) == expected


def elastic(wanted: FineTuneJobSpec, nodes: int, least: int) -> FineTuneJobSpec:
    compute = wanted.compute.model_copy(update={"nodes": nodes, "elastic": Elastic(min_nodes=least)})
    return wanted.model_copy(update={"compute": compute})


def test_an_elastic_training_is_not_to_share_rows() -> None:
    wanted = gpu_job(8, maxLength=50_000, gradientCheckpointing=True, trainBatchSize=8)
    assert "parallelism.context" in str(change(wanted))
    assert "parallelism.context" not in str(change(elastic(wanted, 1, 1)))


def test_an_elastic_training_is_to_wait_for_the_fewest_nodes_on_which_it_fits() -> None:
    wanted, data = gpu_job(8, gradientCheckpointing=True), prepared(model=LLAMA_70B, **LONG)
    assert smallest_change(elastic(wanted, 8, 1), data) == "training.adapter.type: lora"
    data = prepared(model=lora_on(LLAMA_70B), **LONG)
    wanted = gpu_job(1, gradientCheckpointing=True, adapter=LORA)
    assert smallest_change(elastic(wanted, 8, 1), data) == "compute.elastic.minNodes: 3"
    fits = [isinstance(plan(elastic(wanted, 8, least), data), TrainingPlan) for least in (2, 3)]
    assert fits == [False, True]


def test_the_changes_are_tried_in_the_order_that_the_guide_gives() -> None:
    guide = Path(__file__).parents[5] / "docs/install.md"
    sentence = " ".join(guide.read_text().split()).partition("The plan tries these changes in order: ")[2]
    names = {
        "pod_memory": "memory of the pod beside its GPUs",
        "one_replica": "`dataReplicate: 1`",
        "checkpointing": "gradientCheckpointing",
        "logits": "logitsMemory",
        "bf16": "bf16",
        "lora": "LoRA",
        "qlora": "QLoRA",
        "context": "`context`",
        "least_nodes": "`elastic.minNodes`",
        "nodes": "more nodes",
        "memory": "more memory",
    }
    places = [sentence.find(names[change.__name__[1:]]) for change in _CHANGES]
    assert -1 not in places
    assert places == sorted(places)


def test_the_number_of_nodes_is_the_least_that_fits() -> None:
    wanted = gpu_job(1, gradientCheckpointing=True, adapter=LORA)
    data = prepared(model=lora_on(LLAMA_70B), **LONG)
    assert smallest_change(wanted, data) == "compute.nodes: 3"
    fits = [isinstance(plan(with_nodes(wanted, nodes), data), TrainingPlan) for nodes in (1, 2, 3)]
    assert fits == [False, False, True]


def test_more_nodes_than_rows_of_a_batch_are_not_suggested() -> None:
    wanted = gpu_job(1, gradientCheckpointing=True, adapter=LORA, trainBatchSize=2)
    found = change(wanted, lora_on(LLAMA_70B))
    assert found is not None
    assert "nodes" not in found


def test_on_cpus_the_least_memory_limit_in_whole_gibibytes_is_named() -> None:
    wanted, data = spec(), prepared(model=facts(8_000_000_000))
    assert smallest_change(wanted, data) == "compute.resources.limits.memory: 93Gi"
    assert isinstance(plan(with_memory(wanted, "93Gi"), data), TrainingPlan)
    assert isinstance(plan(with_memory(wanted, "92Gi"), data), Refusal)


def test_a_new_model_gets_no_adapter() -> None:
    assert "lora" in (change(gpu_job(1)) or "")
    new = gpu_job(1).model_copy(update={"model": spec(model=NEW_MODEL, training={"method": "pretrain"}).model})
    assert "lora" not in (change(new) or "")


def test_the_refusal_has_the_numbers_and_the_change() -> None:
    found = plan_or_remedy(gpu_job(1), prepared(model=LLAMA_8B, **LONG))
    assert isinstance(found, Refusal)
    assert found.reason == "DoesNotFit"
    assert found.message.endswith("it has only 76.00 GiB: it would fit with training.adapter.type: lora")


def test_where_no_change_is_enough_the_refusal_says_what_else_lowers_the_need() -> None:
    wanted, data = gpu_job(8, maxLength=1_000_000), prepared(model=LLAMA_70B, longest_row_tokens=1_000_000)
    found = plan_or_remedy(wanted, data)
    assert isinstance(found, Refusal)
    assert "lower training.maxLength, or train a smaller model" in found.message


def test_a_plan_and_another_refusal_are_as_they_are_without_the_search() -> None:
    for wanted, data in ((spec(), prepared()), (spec(training={"trainBatchSize": 1}), prepared())):
        assert plan_or_remedy(wanted, data) == plan(wanted, data)


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "gemma2"])
def test_the_size_of_an_adapter_is_estimated_from_facts_never_too_small(model_type: str) -> None:
    fields = {
        "model_type": model_type,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 128_256,
    }
    exact = decoder_facts(fields, Adapter(type="lora", r=8)).trainable_parameters
    assert exact <= lora_parameters(decoder_facts(fields, Adapter()), 8) <= 1.001 * exact


def lora_on(model: ModelFacts) -> ModelFacts:
    return model.model_copy(update={"trainable_parameters": lora_parameters(model, 16)})


def with_nodes(wanted: FineTuneJobSpec, nodes: int) -> FineTuneJobSpec:
    return wanted.model_copy(update={"compute": wanted.compute.model_copy(update={"nodes": nodes})})


def with_memory(wanted: FineTuneJobSpec, memory: str) -> FineTuneJobSpec:
    resources = wanted.compute.resources.model_copy(update={"limits": {"memory": memory}})
    return wanted.model_copy(update={"compute": wanted.compute.model_copy(update={"resources": resources})})


def replicated(nodes: int, replicas: int) -> FineTuneJobSpec:
    wanted = gpu_job(8, "26Gi", gradientCheckpointing=True)
    compute = {"nodes": nodes, "parallelism": Parallelism(data_replicate=replicas)}
    return wanted.model_copy(update={"compute": wanted.compute.model_copy(update=compute)})


HEADS = {"model_type": "llama", "num_attention_heads": 32, "num_key_value_heads": 8}


def test_rows_of_a_model_whose_heads_workers_can_t_share_need_larger_gpus() -> None:
    wanted = gpu_job(8, maxLength=50_000, gradientCheckpointing=True, trainBatchSize=8)
    three_heads = LLAMA_8B.model_copy(update=HEADS | {"num_key_value_heads": 3})
    assert change(wanted, three_heads) == "GPUs of 141Gi (compute.gpuMemory)"


def test_answers_to_compare_are_not_to_be_shared() -> None:
    wanted = gpu_job(8, maxLength=25_000, gradientCheckpointing=True, trainBatchSize=8, method="dpo")
    assert change(wanted, LLAMA_8B.model_copy(update=HEADS)) == "GPUs of 141Gi (compute.gpuMemory)"


def test_more_nodes_are_as_many_for_each_group_that_shares_rows() -> None:
    compute = {"nodes": 2, "parallelism": Parallelism(context=2)}
    wanted = gpu_job(1, "28Gi", gradientCheckpointing=True)
    wanted = wanted.model_copy(update={"compute": wanted.compute.model_copy(update=compute)})
    found = _nodes(_Case(wanted, prepared(model=LLAMA_8B.model_copy(update=HEADS), **LONG), ()))
    assert found is not None
    assert found.spec.compute.nodes % 2 == 0


def test_fewer_replicas_are_suggested_first() -> None:
    assert change(replicated(2, 2)) == "compute.parallelism.dataReplicate: 1"


def test_more_nodes_are_as_many_for_each_replica() -> None:
    case = _Case(replicated(3, 3), prepared(model=LLAMA_8B, **LONG), ())
    found = _nodes(case)
    assert found is not None
    assert found.spec.compute.nodes == 6


def test_an_adapter_is_suggested_beside_matrices_that_are_split() -> None:
    wanted = gpu_job(2, "40Gi", gradientCheckpointing=True)
    compute = wanted.compute.model_copy(update={"parallelism": Parallelism(tensor=2)})
    split = wanted.model_copy(update={"compute": compute})
    assert change(split, LLAMA_8B.model_copy(update=HEADS)) == "training.adapter.type: lora"


def test_4_bits_are_suggested_where_lora_alone_is_too_large() -> None:
    rounded = LLAMA_70B.model_copy(update={"linear_parameters": 68_000_000_000})
    wanted = gpu_job(1, gradientCheckpointing=True, trainBatchSize=1)
    assert change(wanted, rounded) == "training.adapter.type: qlora"
    with_lora = gpu_job(1, gradientCheckpointing=True, trainBatchSize=1, adapter=LORA)
    assert change(with_lora, lora_on(rounded)) == "training.adapter.type: qlora"
    compute = gpu_job(2).compute.model_copy(update={"parallelism": Parallelism(tensor=2)})
    assert "qlora" not in (change(wanted.model_copy(update={"compute": compute}), rounded) or "")

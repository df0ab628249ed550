"""Whether the GPUs of a serving pod can hold a model, against what vLLM printed, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.engine import Engine, EngineAdapters, EngineParallelism
from driftloop.api.inferenceservice import ServingPlan
from driftloop.api.modelversion import ModelShape
from driftloop.controller.kinds.serving_memory import DoesNotFit, memory_plan

GIB = 1 << 30
H100 = int(79.22 * GIB)


def shape(**fields: Any) -> ModelShape:
    """Llama 3 with 8B parameters; `cache_elements` is 2 x 32 layers x 8 heads x 128."""
    sizes = {
        "parameters": 8_030_261_248,
        "dtype": "bfloat16",
        "layers": 32,
        "attention_heads": 32,
        "key_value_heads": 8,
        "cache_elements": 65_536,
        "context_length": 8192,
    }
    return ModelShape.model_validate(sizes | fields)


def engine(**fields: Any) -> Engine:
    return Engine.model_validate({"type": "vllm", "gpus": 1} | fields)


def planned(engine: Engine, model: ModelShape, gpu: int = H100) -> ServingPlan:
    found = memory_plan(engine, model, (gpu,))
    assert isinstance(found, ServingPlan), found
    return found


def refused(engine: Engine, model: ModelShape, gpu: int = H100) -> str:
    found = memory_plan(engine, model, (gpu,))
    assert isinstance(found, DoesNotFit), found
    return found.message


@pytest.mark.parametrize(("gpus", "weights", "cache"), [(1, 14.96, 53.29), (2, 7.48, 58.97)])
def test_the_estimate_is_near_what_vllm_measured(gpus: int, weights: float, cache: float) -> None:
    # https://github.com/vllm-project/vllm/pull/10511, the cache of two GPUs by its own sum: 71.29 - 7.48 - 3.58 - 1.26
    found = planned(engine(gpus=gpus), shape())
    assert found.weights_bytes / GIB == pytest.approx(weights, rel=0.01)
    assert found.cache_bytes / GIB == pytest.approx(cache, rel=0.03)
    assert found.cache_tokens == pytest.approx(cache * GIB / (131_072 / gpus), rel=0.03)


def test_a_model_that_no_gpu_of_this_size_holds_is_refused_with_the_gpus_that_do() -> None:
    large = shape(parameters=70_553_706_496, layers=80, attention_heads=64, cache_elements=163_840)
    message = refused(engine(), large)
    assert message.startswith("engine.gpus: 1: of each GPU vllm may use 71.3 GiB; the weights take 131.4 GiB")
    assert "Set engine.gpus: 4, or GPUs with more memory" in message
    planned(engine(gpus=4), large)


def test_a_context_that_the_cache_does_not_hold_is_refused_with_one_that_it_does() -> None:
    message = refused(engine(), shape(context_length=131_072), 24 * GIB)
    assert "one request may have 131072. Set engine.maxModelLen: " in message
    most = int(message.split("engine.maxModelLen: ")[1].split()[0])
    assert planned(engine(max_model_len=most), shape(context_length=131_072), 24 * GIB).context_tokens == most
    refused(engine(max_model_len=most + 1), shape(context_length=131_072), 24 * GIB)


def test_heads_that_the_gpus_do_not_divide_are_refused_with_the_numbers_that_do() -> None:
    assert refused(engine(gpus=3), shape()) == (
        "engine.gpus: 3 does not divide the model's 32 attention heads: set 1, 2, 4, 8 or 16"
    )
    axes = EngineParallelism(tensor=3, pipeline=1)
    assert refused(engine(gpus=3, parallelism=axes), shape()).startswith("engine.parallelism.tensor: 3 does not divide")
    planned(engine(gpus=3, parallelism=EngineParallelism(pipeline=3)), shape())


def test_pods_of_a_group_hold_a_part_of_the_layers_each() -> None:
    large = shape(parameters=405_853_388_800, layers=126, attention_heads=128, cache_elements=258_048)
    alone = planned(engine(gpus=16), large)
    spread = planned(engine(gpus=8, nodes=2), large)
    assert spread.weights_bytes == pytest.approx(alone.weights_bytes, rel=0.01)
    assert spread.cache_tokens > spread.context_tokens
    message = refused(engine(gpus=4, nodes=2), large)
    assert message.startswith(
        "engine.gpus: 4, engine.nodes: 2: of each GPU vllm may use 71.3 GiB; the weights take 94.5"
    )
    assert "Set engine.nodes: 3, or GPUs" in message
    planned(engine(gpus=4, nodes=3), large)


def test_a_model_that_no_pod_holds_is_refused_with_the_number_of_pods_that_do() -> None:
    large = shape(parameters=405_853_388_800, layers=126, attention_heads=10, cache_elements=258_048)
    assert "Set engine.nodes: 6, or GPUs" in refused(engine(gpus=2), large)
    planned(engine(gpus=2, nodes=6), large)


def test_more_stages_than_layers_are_refused() -> None:
    assert refused(engine(nodes=16), shape(layers=8)) == (
        "engine.nodes: 16 is more than the model's 8 layers: lower it"
    )
    axes = EngineParallelism(pipeline=16)
    assert refused(engine(nodes=16, parallelism=axes), shape(layers=8)).startswith("engine.parallelism.pipeline: 16 is")


def test_the_memory_of_the_smallest_node_counts_unless_the_service_names_another() -> None:
    small = memory_plan(engine(), shape(), (24 * GIB, 80 * GIB))
    assert isinstance(small, ServingPlan)
    assert small.available_bytes == int(0.9 * 24 * GIB)
    named = memory_plan(engine(gpu_memory="80Gi"), shape(), (24 * GIB,))
    assert isinstance(named, ServingPlan)
    assert named.available_bytes == int(0.9 * 80 * GIB)


@pytest.mark.parametrize(
    ("engine", "model", "memory"),
    [
        (engine(gpus=0), shape(), (H100,)),
        (engine(), None, (H100,)),
        (engine(), shape(), ()),
        (engine(type="custom", image="sglang:1"), shape(), (H100,)),
        (engine(args=["--quantization", "fp8"]), shape(parameters=10**12), (H100,)),
        (engine(adapters=EngineAdapters()), shape(parameters=10**12), (H100,)),
        (engine(args=["--kv_cache_dtype=fp8"]), shape(parameters=10**12), (H100,)),
        (engine(args=["--max-model-len", "8k"]), shape(parameters=10**12), (H100,)),
        (engine(args=["--max-model-len=inf"]), shape(), (H100,)),
        (engine(args=["--max-model-len=nan"]), shape(), (H100,)),
        (engine(args=["--gpu-memory-utilization", "most"]), shape(parameters=10**12), (H100,)),
        (engine(type="transformers"), shape(dtype="float8_e4m3fn"), (H100,)),
    ],
)
def test_nothing_is_refused_where_something_is_unknown(
    engine: Engine, model: ModelShape | None, memory: tuple[int, ...]
) -> None:
    assert memory_plan(engine, model, memory) is None


def test_arguments_of_the_user_count() -> None:
    arguments = ["--gpu_memory_utilization=0.5", "--max-model-len", "4096"]
    found = planned(engine(args=arguments), shape())
    assert (found.available_bytes, found.context_tokens) == (H100 // 2, 4096)


def test_the_built_in_engine_needs_room_for_the_weights_in_their_own_type() -> None:
    built_in = engine(type="transformers")
    assert planned(built_in, shape(dtype="float32"), 40 * GIB).weights_bytes == 4 * 8_030_261_248
    assert "Set GPUs with more memory" in refused(built_in, shape(dtype="float32"), 24 * GIB)


@given(gpus=st.sampled_from([1, 2, 4, 8, 16]), memory=st.integers(8, 200), context=st.integers(16, 200_000))
def test_more_gpus_or_a_shorter_context_never_make_it_worse(gpus: int, memory: int, context: int) -> None:
    model, gpu = shape(context_length=context), memory * GIB
    found = memory_plan(engine(gpus=gpus), model, (gpu,))
    if isinstance(found, ServingPlan):
        assert found.weights_bytes + found.working_bytes + found.cache_bytes == found.available_bytes
        assert found.cache_tokens >= found.context_tokens
        shorter = memory_plan(engine(gpus=gpus), shape(context_length=max(1, context // 2)), (gpu,))
        assert isinstance(shorter, ServingPlan)

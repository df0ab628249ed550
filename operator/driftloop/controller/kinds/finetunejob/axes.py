"""The ways to divide a model among which the plan chooses if `compute.parallelism` is absent, in order. Pure.

All workers share the model in shards. Three more axes let fewer rows be computed at a time: each row is then cut over
several workers. They are tried with the fewest cuts first, and only where a test shows that the result stays the same.
"""

from collections.abc import Iterator

from driftloop.api.finetunejob import Compute, FineTuneJobSpec, Parallelism
from driftloop.contract.result import ModelFacts

SHARDS = Parallelism()
MOST_TENSOR, MOST_STAGES = 16, 64  # the API's limits of compute.parallelism
# Types and adapters for which each of the ways below is compared with plain training (tests/unit/trainer/
# test_exactness.py). Others are divided further only if `compute.parallelism` asks for it.
EXACT_TYPES = ("llama", "qwen3")
EXACT_ADAPTERS = ("none", "lora")
_EXACT_METHODS = ("sft", "pretrain")


def ways(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[Parallelism]:
    """Shards alone, then the other ways to divide this model: those with the fewest workers per row first.

    Of as many workers per row, those of a node that share tokens are first, as they exchange the least in a layer. Then
    those of a node that share matrices, and then the stages of a pipeline. A way may be refused for other reasons.
    """
    yield SHARDS
    if not _is_exact(spec, model):
        return
    compute = spec.compute
    possible = [way for way in _ways(compute) if compute.elastic is None or (way.context == way.pipeline == 1)]
    yield from sorted(possible, key=lambda way: (workers_per_row(way), way.pipeline, way.tensor))


def workers_per_row(way: Parallelism) -> int:
    """Number of workers that read the same rows."""
    return way.pipeline * way.context * way.tensor


def replicas(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[int]:
    """Numbers of replicas, the most first: nodes of GPUs, each or several together, that hold the model in shards."""
    compute, training = spec.compute, spec.training
    exact = training.method in _EXACT_METHODS or training.adapter.type in EXACT_ADAPTERS
    if exact and model.model_type in EXACT_TYPES and compute.gpus_per_node > 1 and compute.elastic is None:
        yield from (count for count in range(compute.nodes, 1, -1) if compute.nodes % count == 0)


def divided(spec: FineTuneJobSpec, way: Parallelism) -> FineTuneJobSpec:
    """The job with this `compute.parallelism`."""
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"parallelism": way})})


def _is_exact(spec: FineTuneJobSpec, model: ModelFacts) -> bool:
    training = spec.training
    return (
        training.entrypoint is None
        and model.model_type in EXACT_TYPES
        and training.method in _EXACT_METHODS
        and training.adapter.type in EXACT_ADAPTERS
        and (training.adapter.type == "none" or training.adapter.target_modules == ["all-linear"])
    )


def _ways(compute: Compute) -> Iterator[Parallelism]:
    """Tokens and matrices are shared within a node, and stages are on different nodes if there are several."""
    in_node = compute.gpus_per_node or compute.workers_per_node
    world = compute.nodes * in_node
    sizes = [size for size in range(2, in_node + 1) if in_node % size == 0]
    for size in sizes:
        yield Parallelism(context=size)
        if size <= MOST_TENSOR:
            yield Parallelism(tensor=size)
            yield from (Parallelism(context=other, tensor=size) for other in sizes if in_node % (size * other) == 0)
    for stages in (count for count in range(2, min(world, MOST_STAGES) + 1) if world % count == 0):
        yield Parallelism(pipeline=stages)
        yield from (Parallelism(pipeline=stages, tensor=size) for size in sizes if world // stages % size == 0)

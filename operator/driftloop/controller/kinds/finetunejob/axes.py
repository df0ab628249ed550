"""The ways to divide a model among which the plan chooses if `compute.parallelism` is absent, in order. Pure.

All workers share the model in shards. Three more axes let fewer rows be computed at a time: each row is then cut over
several workers. They are tried with the fewest cuts first, and only where a test shows that the result stays the same
(cells.py).
"""

from collections.abc import Iterator

from driftloop.api.finetunejob import Compute, FineTuneJobSpec, Parallelism
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.cells import cell_of, is_exact

SHARDS = Parallelism()
MOST_TENSOR, MOST_STAGES = 16, 64  # the API's limits of compute.parallelism


def ways(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[Parallelism]:
    """Shards alone, then the other ways to divide this model: those with the fewest workers per row first.

    Of as many workers per row, those of a node that share tokens are first, as they exchange the least in a layer. Then
    those of a node that share matrices, and then the stages of a pipeline. A way may be refused for other reasons.
    """
    yield SHARDS
    exact = [way for way in possible(spec.compute) if is_exact_in(spec, model, way)]
    yield from sorted(exact, key=lambda way: (workers_per_row(way), way.pipeline, way.tensor))


def workers_per_row(way: Parallelism) -> int:
    """Number of workers that read the same rows."""
    return way.pipeline * way.context * way.tensor


def replicas(spec: FineTuneJobSpec, model: ModelFacts) -> Iterator[int]:
    """Numbers of replicas, the most first: nodes of GPUs, each or several together, that hold the model in shards."""
    compute = spec.compute
    if compute.gpus_per_node < 2 or compute.elastic is not None:
        return
    for count in range(compute.nodes, 1, -1):
        if compute.nodes % count == 0 and is_exact_in(spec, model, Parallelism(data_replicate=count)):
            yield count


def divided(spec: FineTuneJobSpec, way: Parallelism) -> FineTuneJobSpec:
    """The job with this `compute.parallelism`."""
    return spec.model_copy(update={"compute": spec.compute.model_copy(update={"parallelism": way})})


def is_exact_in(spec: FineTuneJobSpec, model: ModelFacts, way: Parallelism) -> bool:
    """Whether a test shows that this job, divided so, has the result of plain training."""
    compiled = spec.training.compile is True or spec.training.float8  # else the plan compiles only what is exact
    return is_exact(cell_of(divided(spec, way), model.model_type, compiled=compiled))


def possible(compute: Compute) -> Iterator[Parallelism]:
    """Ways to cut rows on these workers, which the API accepts."""
    for way in _ways(compute):
        if compute.elastic is None or way.context == way.pipeline == 1:
            yield way


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

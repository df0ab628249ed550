"""Why the workers divide the model by each axis, or not, and whether that is tested; in words for the status. Pure."""

from dataclasses import dataclass
from typing import Literal

from driftloop.api.finetunejob import FineTuneJobSpec, Parallelism
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.axes import divided, is_exact_in, possible, replicas
from driftloop.controller.kinds.finetunejob.cells import Axis, cell_of, is_exact, sizes_of
from driftloop.controller.kinds.finetunejob.compiling import is_compiled
from driftloop.controller.vocabulary.conditions import shorten

RowAxis = Literal["pipeline", "context", "tensor"]
_OF_ROWS: tuple[RowAxis, ...] = ("pipeline", "context", "tensor")
MOST = 256  # characters of a reason in the status
_FIELDS: dict[Axis, str] = {
    "pipeline": "pipeline",
    "replicate": "dataReplicate",
    "context": "context",
    "tensor": "tensor",
}
_UNTESTED = "no test shows that this training stays exact with it: compute.parallelism can set it"


@dataclass(frozen=True)
class Division:
    """How the plan divides the model of a job."""

    spec: FineTuneJobSpec  # as the job has it
    model: ModelFacts
    way: Parallelism  # set or chosen
    cause: str | None  # why shards alone are not enough; None if they are, or if the job sets the way
    memory_is_known: bool

    @property
    def done(self) -> FineTuneJobSpec:
        """The job with the way."""
        return divided(self.spec, self.way)


def why_each_axis(division: Division) -> dict[str, str]:
    """The reason for the number of workers along each axis."""
    sizes = sizes_of(division.done.compute)
    world = sizes["pipeline"] * sizes["replicate"] * sizes["fsdp"] * sizes["context"] * sizes["tensor"]
    if division.spec.compute.parallelism is not None:
        chosen: dict[str, str] = {
            axis: f"compute.parallelism.{field} is {sizes[axis]}" for axis, field in _FIELDS.items()
        }
    else:
        chosen = {axis: _why_row(division, axis, sizes[axis]) for axis in _OF_ROWS}
        chosen["replicate"] = _why_replicas(division, sizes["replicate"])
    return chosen | {"fsdp": _why_shards(sizes["fsdp"], world)}


def why_exact(division: Division) -> str:
    """Whether a test compares such a training with plain training."""
    spec, model = division.done, division.model
    cell = cell_of(spec, model.model_type, compiled=is_compiled(spec, model))
    if cell is None:
        return "untested: what training.entrypoint computes is not the built-in loop"
    if is_exact(cell):
        return shorten(f"exact: a test compares this with plain training: {cell}", MOST)
    return shorten(f"untested: no test compares this with plain training: {cell}", MOST)


def _why_shards(size: int, world: int) -> str:
    if world == 1:
        return "there is one worker, which has the whole model"
    if size == world:
        return f"all {world} workers hold shards and read rows of their own"
    return f"what the other axes leave of {world} workers: {size}"


def _why_row(division: Division, axis: RowAxis, size: int) -> str:
    """Why so many workers share a row along this axis."""
    if size > 1:
        return f"one row fits with {size}, and with no fewer workers per row"
    if division.cause is None:
        return "shards alone are enough"
    if division.spec.compute.elastic is not None and axis != "tensor":
        return "compute.elastic is not tested with it"
    return _why_none(division, axis)


def _why_none(division: Division, axis: RowAxis) -> str:
    """Why rows are not cut along this axis, though they have to be cut."""
    cuts = [way for way in possible(division.spec.compute) if getattr(way, axis) > 1]
    if not cuts:
        return "it does not divide these workers"
    if not any(is_exact_in(division.spec, division.model, way) for way in cuts):
        return _UNTESTED
    return "the other axes need as few workers per row, or it does not fit"


def _why_replicas(division: Division, count: int) -> str:
    """Why there are so many groups of nodes that each hold the model."""
    compute = division.spec.compute
    if count > 1:
        return f"each of {count} groups of nodes holds the model with as many rows at a time as all nodes would"
    if compute.nodes == 1:
        return "there is one node"
    if compute.gpus_per_node < 2:
        return "only nodes with several GPUs gain by it"
    if compute.elastic is not None:
        return "compute.elastic is not tested with it"
    if division.cause is not None:
        return "one row needs the memory of all nodes"
    if next(replicas(division.spec, division.model), None) is None:
        return _UNTESTED
    if not division.memory_is_known:
        return "the memory of a GPU is unknown: set compute.gpuMemory"
    return "fewer nodes would not hold the model with as many rows at a time"

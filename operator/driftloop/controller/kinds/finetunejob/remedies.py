"""The smallest change of a job with which its training would fit into memory. Pure."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, islice
from typing import Any, assert_never

from driftloop.api.finetunejob import Elastic, FineTuneJobSpec, PlanStatus
from driftloop.contract.phase import BesideSteps
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.kinds.finetunejob.axes import ways
from driftloop.controller.kinds.finetunejob.ladder import LOGITS
from driftloop.controller.kinds.finetunejob.memory import LINEAR_LAYERS, logits_bytes
from driftloop.controller.kinds.finetunejob.plan import (
    Refusal,
    TrainingPlan,
    impossible,
    lacking_in_pod,
    plan,
    resolved,
)
from driftloop.controller.vocabulary.quantity import quantity
from driftloop.controller.vocabulary.reasons import Reason

MOST_SHARING = 64  # the API's limit of compute.parallelism.context
MOST_NODES, MORE_NODES = 512, 8  # the API's limit, and how many times the job's nodes are suggested at most
GPU_MEMORY = (16, 24, 32, 40, 48, 80, 96, 141, 180, 288)  # sizes on the market, in GiB
GIB = 1 << 30
MOST_MEMORY = 4096  # the largest memory limit of a pod that is suggested, in GiB
# Only a change that lowers the estimate by this much is proposed after a training that ran out of memory.
LESS = 0.9


@dataclass(frozen=True)
class _Case:
    """A job with some changes."""

    spec: FineTuneJobSpec
    data: PrepareResult
    gpu_memory: tuple[int, ...]
    tried: PlanStatus | None = None  # a plan that ran out of memory
    phase: BesideSteps | None = None  # in which it did, if not in its steps
    changes: tuple[str, ...] = ()

    def fits(self) -> bool:
        match plan(self.spec, self.data, self.gpu_memory):
            case TrainingPlan(status=status):
                return self.tried is None or _needs_less(status, self.tried, self.phase)
            case Refusal():
                return False
            case never:
                assert_never(never)

    def changed(self, part: str, words: str, **fields: Any) -> "_Case":
        """The job with other `fields` in a part of its spec; `words` describe the change."""
        section = getattr(self.spec, part).model_copy(update=fields)
        return replace(self, spec=self.spec.model_copy(update={part: section}), changes=(*self.changes, words))


def plan_or_remedy(
    spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int] = ()
) -> TrainingPlan | Refusal:
    """The plan, or why there is none. If the memory is too small, the refusal names the smallest change that fits."""
    match plan(spec, data, gpu_memory):
        case Refusal(Reason.DOES_NOT_FIT, message):
            return Refusal(Reason.DOES_NOT_FIT, f"{message}: {_advice(smallest_change(spec, data, gpu_memory))}")
        case (TrainingPlan() | Refusal()) as found:
            return found
        case never:
            assert_never(never)


def remedy_after(
    tried: PlanStatus,
    phase: BesideSteps | None,
    spec: FineTuneJobSpec,
    data: PrepareResult,
    gpu_memory: Sequence[int] = (),
) -> str:
    """The smallest change of `spec` after its plan `tried` ran out of memory, so the estimate was too low.

    `phase`: in which it did, if not in its steps.
    """
    return _advice(_first_that_fits(_Case(spec, data, tuple(gpu_memory), tried, phase)))


def _needs_less(changed: PlanStatus, tried: PlanStatus, phase: BesideSteps | None) -> bool:
    """Whether a plan fits though `tried` did not. Each is compared with the memory that is available to it, if known.

    `tried` needed more than what was available to it. So the estimates are too low by at least that factor.
    """
    part = phase if phase in tried.memory_bytes_per_worker else "total"
    needs, needed = changed.memory_bytes_per_worker[part], tried.memory_bytes_per_worker[part]
    has, had = changed.available_bytes_per_worker, tried.available_bytes_per_worker
    return needs / has <= LESS * needed / had if has and had else needs <= LESS * needed


def _advice(change: str | None) -> str:
    if change:
        return f"it would fit with {change}"
    return (
        "no change of gradientCheckpointing, bf16, adapter, parallelism, nodes and memory is enough: lower "
        "training.maxLength, or train a smaller model"
    )


def smallest_change(spec: FineTuneJobSpec, data: PrepareResult, gpu_memory: Sequence[int] = ()) -> str | None:
    """The first change with which the training fits: each of `_CHANGES` alone, then two of them together, and so on."""
    return _first_that_fits(_Case(spec, data, tuple(gpu_memory)))


def _first_that_fits(start: _Case) -> str | None:
    for count in range(1, len(_CHANGES) + 1):
        for changes in combinations(_CHANGES, count):
            case = _apply(start, changes)
            if case is not None and case.fits():
                return " and ".join(case.changes)
    return None


_Change = Callable[[_Case], _Case | None]  # None: the change is not possible, or is not enough


def _apply(case: _Case, changes: Sequence[_Change]) -> _Case | None:
    for change in changes:
        if (changed := change(case)) is None:
            return None
        case = changed
    return case


def _checkpointing(case: _Case) -> _Case | None:
    if case.spec.training.gradient_checkpointing:
        return None
    return case.changed("training", "training.gradientCheckpointing: true", gradient_checkpointing=True)


def _logits(case: _Case) -> _Case | None:
    """The loss of fewer tokens at a time."""
    least = LOGITS[-1]
    if logits_bytes(case.spec.training) <= quantity(least) or not case.data.model.chunked_loss:
        return None
    return case.changed("training", f"training.logitsMemory: {least}", logits_memory=least)


def _bf16(case: _Case) -> _Case | None:
    return None if resolved(case.spec).bf16 else case.changed("training", "training.bf16: true", bf16=True)


def _pod_memory(case: _Case) -> _Case | None:
    """The least memory of a pod beside its GPUs, if it has less."""
    lacking = lacking_in_pod(case.spec, case.data)
    return None if lacking is None else _with_memory(case, math.ceil(lacking["total"] / GIB))


def _one_replica(case: _Case) -> _Case | None:
    parallelism = case.spec.compute.axes
    if parallelism.data_replicate == 1:
        return None
    sharded = parallelism.model_copy(update={"data_replicate": 1})
    return case.changed("compute", "compute.parallelism.dataReplicate: 1", parallelism=sharded)


def _lora(case: _Case) -> _Case | None:
    """An adapter on all linear layers.

    A new model can't have one, because its weights are random.
    """
    adapter, model = case.spec.training.adapter, case.data.model
    if adapter.type in ("lora", "qlora") or case.spec.model.from_.config is not None or not model.hidden_size:
        return None
    added = lora_parameters(model, adapter.r)
    facts = model.model_copy(update={"parameters": model.parameters + added, "trainable_parameters": added})
    with_lora = adapter.model_copy(update={"type": "lora", "target_modules": ["all-linear"]})
    changed = case.changed("training", "training.adapter.type: lora", adapter=with_lora)
    return replace(changed, data=case.data.model_copy(update={"model": facts}))


def _qlora(case: _Case) -> _Case | None:
    """An adapter on all linear layers, whose matrices have 4 bits; they are not divided further."""
    adapter, parallelism = case.spec.training.adapter, case.spec.compute.axes
    divided = parallelism.tensor > 1 or parallelism.pipeline > 1
    if divided or not case.data.model.linear_parameters or case.data.model.loaded_whole:
        return None
    added = case if adapter.type == "lora" else _lora(case)
    if added is None:
        return None
    rounded = added.spec.training.adapter.model_copy(update={"type": "qlora"})
    changed = case.changed("training", "training.adapter.type: qlora", adapter=rounded)
    return replace(changed, data=added.data)


def lora_parameters(model: ModelFacts, rank: int) -> int:
    """At least as many parameters as LoRA adds to the linear layers of a dense decoder.

    Each linear layer has the model's width on one side, so the other sides add up to the layer's size over that width.
    """
    widths = LINEAR_LAYERS * model.hidden_size + math.ceil(model.largest_layer_parameters / model.hidden_size)
    return rank * widths * model.num_layers


def _context(case: _Case) -> _Case | None:
    """The fewest workers that share the tokens of rows.

    Not for answers to compare, and not for an elastic training: the API refuses them. Not if the plan chooses.
    """
    compute, axes = case.spec.compute, case.spec.compute.axes
    if case.spec.training.method in ("dpo", "kto") or compute.elastic is not None:
        return None
    if compute.parallelism is None and any(True for _ in islice(ways(case.spec, case.data.model), 1, None)):
        return None  # the plan has tried them
    workers = compute.nodes * (compute.gpus_per_node or compute.workers_per_node)
    groups = workers // (axes.pipeline * axes.data_replicate * axes.tensor)
    possible = [
        count
        for count in range(axes.context + 1, min(groups, MOST_SHARING) + 1)
        if groups % count == 0 and impossible(case.data.model, axes.model_copy(update={"context": count})) is None
    ]
    return _least(possible, partial(_with_context, case))


def _with_context(case: _Case, count: int) -> _Case:
    shared = case.spec.compute.axes.model_copy(update={"context": count})
    return case.changed("compute", f"compute.parallelism.context: {count}", parallelism=shared)


def _least_nodes(case: _Case) -> _Case | None:
    """More nodes below which an elastic training waits: on fewer nodes a worker needs more."""
    compute = case.spec.compute
    if compute.elastic is None:
        return None
    return _least(range(compute.elastic.min_nodes + 1, compute.nodes + 1), partial(_with_least_nodes, case))


def _with_least_nodes(case: _Case, nodes: int) -> _Case:
    compute = case.spec.compute
    elastic = (compute.elastic or Elastic()).model_copy(update={"min_nodes": nodes})
    return case.changed("compute", f"compute.elastic.minNodes: {nodes}", elastic=elastic)


def _nodes(case: _Case) -> _Case | None:
    """The least number of nodes: each group of workers needs at least one row of a batch, each replica equal nodes."""
    compute, replicas = case.spec.compute, case.spec.compute.axes.data_replicate
    workers = compute.gpus_per_node or compute.workers_per_node
    group = compute.axes.pipeline * compute.axes.context * compute.axes.tensor
    rows = case.spec.training.train_batch_size * group // workers
    most = min(MOST_NODES, MORE_NODES * compute.nodes, rows)
    possible = [
        nodes for nodes in range(compute.nodes + 1, most + 1) if nodes * workers % group == 0 and nodes % replicas == 0
    ]
    return _least(possible, partial(_with_nodes, case))


def _with_nodes(case: _Case, nodes: int) -> _Case:
    return case.changed("compute", f"compute.nodes: {nodes}", nodes=nodes)


def _memory(case: _Case) -> _Case | None:
    """The least memory of a GPU, or of a pod on CPUs."""
    if case.spec.compute.gpus_per_node:
        return _least(GPU_MEMORY, partial(_with_gpu_memory, case))
    return _least(range(1, MOST_MEMORY + 1), partial(_with_memory, case))


def _with_gpu_memory(case: _Case, size: int) -> _Case:
    return case.changed("compute", f"GPUs of {size}Gi (compute.gpuMemory)", gpu_memory=f"{size}Gi")


def _with_memory(case: _Case, size: int) -> _Case:
    resources = case.spec.compute.resources
    larger = resources.model_copy(update={"limits": resources.limits | {"memory": f"{size}Gi"}})
    return case.changed("compute", f"compute.resources.limits.memory: {size}Gi", resources=larger)


def _least(values: Sequence[int], changed: Callable[[int], _Case]) -> _Case | None:
    """The case of the least value that fits. `values` ascend, and if one fits, all larger ones do."""
    index = bisect_left(values, True, key=lambda value: changed(value).fits())
    return changed(values[index]) if index < len(values) else None


_CHANGES: tuple[_Change, ...] = (
    _pod_memory,
    _one_replica,
    _checkpointing,
    _logits,
    _bf16,
    _lora,
    _qlora,
    _context,
    _least_nodes,
    _nodes,
    _memory,
)

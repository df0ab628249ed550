"""What torch's own memory tracker counts in a training step of a worker, for test_memory_plan.py.

Tensors are fake (FakeTensorMode): they have shapes and no memory, so models of any size fit. The process group is fake
too: this process is one worker of many, and exchanges do nothing.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker, _FSDPRefType, _FSDPState
from torch.distributed._tools.mem_tracker import _RefType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor._sharding_prop import ShardingPropagator
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import masking_utils

from driftloop.api.finetunejob import GradientReduction, Parallelism, TrainingSpec
from driftloop.controller.kinds.finetunejob.memory import logits_bytes
from driftloop.podlib.nf4 import BLOCK
from driftloop_trainer.models import config_for, decoder_layers, with_adapter
from driftloop_trainer.nf4 import matrices, quantise
from driftloop_trainer.train.worker import context
from driftloop_trainer.train.worker.attention import attend_by_document
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.loop import build_optimizer
from driftloop_trainer.train.worker.loss import limit_logits
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.method import Sums
from driftloop_trainer.train.worker.methods.nexttoken import token_sums
from driftloop_trainer.train.worker.pipeline import Pipeline, staged
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.step import accumulate
from driftloop_trainer.weights import meta_model

CPU = torch.device("cpu")
TOTAL = "Total"  # torch's name of the sum


class _Logits(_RefType):
    """A kind of tensors that torch's tracker counts among the activations."""

    LOGITS = "Logits"


_UNSORTED = (_FSDPRefType.ACT, _FSDPRefType.TEMP)  # the kinds of what torch's tracker can't tell


# The plan's parts, as the kinds of tensors that make them up.
PARTS: Mapping[str, tuple[_RefType, ...]] = {
    "weights": (_FSDPRefType.SHARDED_PARAM,),
    "optimizer": (_FSDPRefType.OPT,),
    "gathered": (_FSDPRefType.UNSHARDED_PARAM, _FSDPRefType.ALL_GATHER),
    "gradients": (_FSDPRefType.SHARDED_GRAD, _FSDPRefType.UNSHARDED_GRAD, _FSDPRefType.REDUCE_SCATTER),
    "activations": (_FSDPRefType.ACT, _FSDPRefType.TEMP),
    "logits": (_Logits.LOGITS,),
}


@dataclass(frozen=True)
class Shapes:
    """Shapes of whole matrices, and those of matrices of 4 bits while they are expanded."""

    whole: set[torch.Size]
    expanded: set[torch.Size]


class PartsTracker(FSDPMemTracker):  # type: ignore[no-untyped-call]
    """torch's tracker, which also keeps the most that each part took at any time.

    It sorts by their shape what torch counts as activations, too: logits, gradients of whole matrices, and the buffers
    in which FSDP gathers weights and adds up gradients. `vocabulary`: sizes of the last dimension of logits.
    """

    def __init__(self, model: Any, optimizer: torch.optim.Optimizer, vocabulary: set[int], shapes: Shapes):
        super().__init__(model, optimizer)
        self._ref_class = [*_FSDPRefType, *_Logits]  # type: ignore[assignment] # torch only iterates over it
        self._vocabulary, self._shapes = vocabulary, shapes
        self.most = dict.fromkeys((*PARTS, TOTAL), 0)
        self._paused = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing: DTensor finds the shape of a result with tensors of the whole shape, which are never real."""
        self._paused, before = True, self._paused
        yield
        self._paused = before

    def _track(self, reftype: _RefType, t: torch.Tensor) -> None:
        if self._paused:
            return
        super()._track(self._sorted(t) or reftype if reftype in _UNSORTED else reftype, t)

    def _sorted(self, tensor: torch.Tensor) -> _RefType | None:
        shape = tensor.shape
        if len(shape) >= 2 and shape[-1] in self._vocabulary:
            return _Logits.LOGITS
        if shape in self._shapes.expanded:
            return _FSDPRefType.ALL_GATHER
        if shape in self._shapes.whole or shape[::-1] in self._shapes.whole:
            return _FSDPRefType.UNSHARDED_GRAD
        if len(shape) == 1 and self._fsdp_state in (_FSDPState.PRE_FW, _FSDPState.PRE_BW):
            return _FSDPRefType.ALL_GATHER
        if len(shape) == 1 and self._fsdp_state is _FSDPState.POST_BW:
            return _FSDPRefType.REDUCE_SCATTER
        return None

    def _update_peak_stats(self, peak_state: Any) -> None:
        """Called after every operation."""
        now = self._curr_mem_snap.get(CPU, {})
        for part, kinds in PARTS.items():
            self.most[part] = max(self.most[part], sum(now.get(kind, 0) for kind in kinds))
        self.most[TOTAL] = max(self.most[TOTAL], now.get(TOTAL, 0))


def tracked(
    architecture: dict[str, Any],
    training: TrainingSpec,
    parallelism: Parallelism,
    *,
    world_size: int,
    rows: int,
    batches: int,
    reduction: GradientReduction,
    rank: int = 0,
) -> dict[str, int]:
    """The most bytes of each part, and of all together, in a step of `rank` with `batches` of `rows` full rows each."""
    with _one_of(world_size, rank):
        mesh = Mesh.of("cpu", parallelism)
        config = config_for(architecture)
        half = training.bf16 and training.adapter.type != "none"
        bare = meta_model(config, torch.bfloat16 if half else torch.float32)
        model = with_adapter(bare, training.adapter)
        if training.adapter.type == "qlora":
            quantise(decoder_layers(model))
        limit_logits(model, logits_bytes(training))
        shapes = {parameter.shape for parameter in model.parameters() if parameter.ndim > 1}
        shard(model, mesh, bf16=bool(training.bf16), gradient_checkpointing=training.gradient_checkpointing)
        batch = _full(rows, training.max_length)
        if mesh.context is not None:
            attend_by_document(model)
            batch = context.part(batch, mesh.context)
        with FakeTensorMode(allow_non_fake_inputs=True), _without_mask():
            model.to_empty(device=CPU)
            optimizer = _with_moments(model, training)
            vocabulary = {config.vocab_size, config.vocab_size // parallelism.tensor}
            known = Shapes(shapes | _shapes(model), _expanded(model))
            tracker = PartsTracker(model, optimizer, vocabulary, known)

            def sums(called: Any, given: Batch) -> torch.Tensor:
                tracker.reset_mod_stats()  # torch's tracker knows one forward pass
                return token_sums(called, given)

            with tracker, _shapes_uncounted(tracker):
                computed = staged(model, mesh, 0, bf16=bool(training.bf16))
                _step(computed, optimizer, [batch] * batches, reduction, sums)
            return tracker.most


def _without_mask() -> AbstractContextManager[Any]:
    """Let transformers find that the rows are not packed. For fake tensors it makes a mask, as it can't look."""
    return patch.object(masking_utils, "find_packed_sequence_indices", return_value=None)


@contextmanager
def _shapes_uncounted(tracker: PartsTracker) -> Iterator[None]:
    find = ShardingPropagator._propagate_tensor_meta_non_cached

    def uncounted(*arguments: Any) -> Any:
        with tracker.paused():
            return find(*arguments)

    with patch.object(ShardingPropagator, "_propagate_tensor_meta_non_cached", uncounted):
        yield


def _with_moments(model: Any, training: TrainingSpec) -> torch.optim.Optimizer:
    """The optimizer as it is after a step."""
    model._get_fsdp_state()._lazy_init()
    optimizer = build_optimizer(model, training)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    return optimizer


def _shapes(model: Any) -> set[torch.Size]:
    """The shapes of whole matrices as this worker computes with them."""
    states = (module._get_fsdp_state() for module in model.modules() if isinstance(module, FSDPModule))
    groups = (state._fsdp_param_group for state in states)
    return {param._orig_size for group in groups if group for param in group.fsdp_params if len(param._orig_size) > 1}


def _expanded(model: Any) -> set[torch.Size]:
    found = set()
    for module in matrices(model).values():
        rows, packed, blocks = module.out_features, module.packed.shape[1], module.scales.shape[1]
        found |= {torch.Size(shape) for shape in ((rows, packed), (rows, packed, 2), (rows, blocks, BLOCK))}
    return found


def _step(
    model: Any, optimizer: torch.optim.Optimizer, batches: list[Batch], reduction: GradientReduction, sums: Sums
) -> None:
    """As `train_step`, without the norm of the gradients, which needs values."""
    each = reduction == "microBatch"
    if isinstance(model, Pipeline):
        model.accumulate(sums, batches, 1.0, each)
    else:
        accumulate(model, sums, batches, 1.0, each)
    optimizer.step()
    optimizer.zero_grad()


def _full(rows: int, tokens: int) -> Batch:
    ids = torch.zeros(rows, tokens, dtype=torch.int64)
    kept = torch.arange(tokens - 1)
    return Batch(ids, ids[:, 1:].contiguous(), kept)


@contextmanager
def _one_of(world_size: int, rank: int) -> Iterator[None]:
    """Be `rank` of `world_size` workers that do not exist."""
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    try:
        yield
    finally:
        dist.destroy_process_group()

"""Forward and backward passes through the stages of a pipeline, by the schedules of torch.distributed.pipelining."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B
from torch.distributed.tensor import DTensor

from driftloop.contract.interleaving import in_equal_rounds
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.loss import hidden_states
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.method import Sums
from driftloop_trainer.train.worker.stages import only, twin


def staged(model: Any, mesh: Mesh, measures: int, *, bf16: bool) -> Any:
    """`model` itself, or with a pipeline this worker's stages of it.

    `measures`: how many the method has. `bf16`: whether the computation is in bfloat16.
    """
    if mesh.pipeline is None:
        return model
    return Pipeline(model, mesh, measures, torch.bfloat16 if bf16 else next(model.parameters()).dtype)


class Pipeline(nn.Module):
    """This worker's stages of a model, and its neighbours. The next worker has the stage after each of them."""

    def __init__(self, model: Any, mesh: Mesh, measures: int, dtype: torch.dtype) -> None:
        """`dtype`: of the states that stages exchange."""
        super().__init__()
        assert mesh.pipeline is not None
        self.model = model
        self.twin = twin(model, mesh.own_stages, mesh.stages)
        self._group = mesh.pipeline.get_group()
        self._own, self._stages, self._workers, self._dtype = mesh.own_stages, mesh.stages, mesh.pipeline_size, dtype
        self._sums = 1 + measures
        if isinstance(model, FSDPModule):
            # torch collects FSDP's units at the first forward pass, which lacks those of this worker's other stages.
            model._get_fsdp_state()._lazy_init()

    def accumulate(self, sums: Sums, batches: Sequence[Batch], factor: float, reduces_each: bool) -> list[torch.Tensor]:
        """Add up the gradients of `factor` times the loss. Returns each micro-batch's sums, or 0 before the last stage.

        All micro-batches have one shape. `reduces_each`: reduce gradients over the rows after each of them, not once.
        """
        totals: list[torch.Tensor] = []

        def loss(batch: Batch) -> torch.Tensor:
            summed = sums(self.model, batch)
            totals.append(summed.detach().to(torch.float64))
            return summed[0]

        whole = rounded(batches, self._workers) if len(self._own) > 1 else list(batches)
        stages = [self._torch_stage(stage, whole[0], reduces_each) for stage in self._own]
        self._schedule(stages, len(whole), factor).step(
            arg_mbs=[(batch.ids,) if 0 in self._own else () for batch in whole],
            kwarg_mbs=[{"batch": batch, "loss": loss} for batch in whole],
            target_mbs=[None] * len(whole),
            return_outputs=False,
        )
        if self.twin is not None:
            self._add_gradient_of_twin(self.twin)
        return totals[: len(batches)] or [torch.zeros(self._sums, dtype=torch.float64, device=batches[0].ids.device)]

    def sums(self, sums: Sums, batch: Batch) -> torch.Tensor:
        """The sums of a micro-batch by a forward pass alone, or 0 before the last stage. No gradient is kept.

        A stage begins the next micro-batch while the next stage computes this one.
        """
        ranks = dist.get_process_group_ranks(self._group)
        place = self._own[0]
        before, after = ranks[place - 1], ranks[(place + 1) % self._workers]
        width = self.model.config.get_text_config().hidden_size
        for stage in self._own:
            states = batch.ids
            if stage > 0:
                states = torch.empty((*batch.ids.shape, width), dtype=self._dtype, device=batch.ids.device)
                dist.recv(states, before, self._group)
            with only(self.model, stage, self._stages, states):
                if stage == self._stages - 1:
                    return sums(self.model, batch)
                dist.send(hidden_states(self.model, batch).to(self._dtype).contiguous(), after, self._group)
        return torch.zeros(self._sums, dtype=torch.float64, device=batch.ids.device)

    def from_last_stage(self, own: list[int]) -> list[int]:
        """What the last stage has; every stage calls it with its own."""
        gathered: list[list[int]] = [[]] * self._workers
        dist.all_gather_object(gathered, own, self._group)
        return gathered[-1]

    def _schedule(self, stages: "list[_Stage]", count: int, factor: float) -> Any:
        """The order of `count` micro-batches' passes through the stages."""
        options: dict[str, Any] = {"loss_fn": lambda output, _: output * factor, "scale_grads": False}
        if len(stages) > 1:
            return ScheduleInterleaved1F1B(list(stages), count, **options)
        # With fewer micro-batches than stages, 1F1B is not defined; all of them are in the pipeline at once anyway.
        return (ScheduleGPipe if count < self._stages else Schedule1F1B)(stages[0], count, **options)

    def _torch_stage(self, stage: int, batch: Batch, reduces_each: bool) -> "_Stage":
        """torch's stage for micro-batches with the shape of `batch`. It is cheap, and a step has a shape of its own."""
        width = self.model.config.get_text_config().hidden_size
        states = torch.empty((*batch.ids.shape, width), dtype=self._dtype, device="meta", requires_grad=True)
        scalar = torch.empty((), device="meta", requires_grad=True)
        return _Stage(
            _Computed(self.model, stage, self._stages),
            stage,
            self._stages,
            batch.ids.device,
            input_args=batch.ids if stage == 0 else states,
            output_args=scalar if stage == self._stages - 1 else states,
            group=self._group,
            reduces_each=reduces_each,
            ends_step=stage == self._own[0],
        )

    def _add_gradient_of_twin(self, weight: nn.Parameter) -> None:
        """Add up the gradients of tied embeddings: the first and the last stage then take the same step."""
        peer = dist.get_global_rank(self._group, self._workers - 1 if 0 in self._own else 0)
        gradient = weight.grad.to_local() if isinstance(weight.grad, DTensor) else weight.grad
        assert gradient is not None
        other = torch.empty_like(gradient)
        exchange = [
            dist.P2POp(dist.isend, gradient.contiguous(), peer, self._group),
            dist.P2POp(dist.irecv, other, peer, self._group),
        ]
        for work in dist.batch_isend_irecv(exchange):
            work.wait()
        gradient += other


class _Computed(nn.Module):
    """One stage of a model that may have several.

    It hides from torch's stage that `model` is an FSDPModule: torch would keep all layers of a stage gathered from the
    first backward pass of a step to its last.
    """

    def __init__(self, model: Any, stage: int, stages: int) -> None:
        super().__init__()
        self.model = model
        self._stage, self._stages = stage, stages

    def forward(self, states: torch.Tensor, batch: Batch, loss: Callable[[Batch], torch.Tensor]) -> torch.Tensor:
        """The last stage returns the loss of a micro-batch, the others what the next stage receives.

        `states`: what the previous stage returned, of shape (rows, tokens, width); in the first stage the tokens.
        """
        with only(self.model, self._stage, self._stages, states):
            return loss(batch) if self._stage == self._stages - 1 else hidden_states(self.model, batch)


class _Stage(PipelineStage):
    """torch's stage, which reduces gradients over the rows after each micro-batch, or once at the end of the step.

    `ends_step`: whether the worker's last backward pass of a step is one of this stage. Of several stages it is that of
    the first: the gradients of all are reduced then.
    """

    def __init__(self, computed: _Computed, *args: Any, reduces_each: bool, ends_step: bool, **kwargs: Any) -> None:
        super().__init__(computed, *args, **kwargs)
        self._reduces_each, self._ends_step, self._model = reduces_each, ends_step, computed.model

    def backward_one_chunk(
        self, bwd_chunk_id: int, loss: Any = None, full_backward: bool = True, last_backward: bool = False
    ) -> None:
        """As torch's."""
        last = last_backward and self._ends_step
        self._model.set_requires_gradient_sync(self._reduces_each or last)
        self._model.set_requires_all_reduce(last)  # between replicas of the model
        super().backward_one_chunk(bwd_chunk_id, loss, full_backward, last_backward)


def rounded(batches: Sequence[Batch], workers: int) -> list[Batch]:
    """`batches`, and empty ones until the interleaved schedule can run them. Pure."""
    empty = in_equal_rounds(len(batches), workers) - len(batches)
    return [*batches, *[batches[-1].without_targets()] * empty]

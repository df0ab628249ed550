"""One worker: its part of the training and of the export."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.optim import Optimizer

from driftloop.contract.phase import tell, told
from driftloop.contract.task import TrainTask
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import FILE, VALIDATION, Dataset
from driftloop_trainer.models import load_config, load_tokenizer, model_facts
from driftloop_trainer.train.assignment import Assignment, Outcome
from driftloop_trainer.train.base import open_base
from driftloop_trainer.train.localdata import LocalData
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.shutdown import FOLDER_ENV, at_work
from driftloop_trainer.train.tracking.choice import SENT_AGAIN, trackers_of
from driftloop_trainer.train.tracking.reporting import reporting
from driftloop_trainer.train.worker.checkpoint import check_owner, from_all_ranks, resume
from driftloop_trainer.train.worker.curve import Curve, curve_before
from driftloop_trainer.train.worker.data import shared_data
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.float8 import lacking_gpu
from driftloop_trainer.train.worker.loading import ShardedModel, load_sharded
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.loss import limit_logits
from driftloop_trainer.train.worker.memory import OutOfMemory
from driftloop_trainer.train.worker.mesh import Mesh, device_of_worker
from driftloop_trainer.train.worker.meter import Trained
from driftloop_trainer.train.worker.methods.choice import method_of
from driftloop_trainer.train.worker.own import train_own
from driftloop_trainer.train.worker.utilisation import Utilisation, utilisation
from driftloop_trainer.train.worker.validate import Validator, use_best


@dataclass(frozen=True)
class _Inputs:
    """What a rank loads before it trains."""

    device: torch.device  # where it computes
    base: Path  # folder of the base model, without its weights
    data: Path  # folder of the prepared data
    sharded: ShardedModel  # this rank's part of the model
    optimizer: Optimizer  # of the trained weights
    dataset: Dataset  # the training rows
    set_aside: Dataset | None  # the validation rows; None if there are none
    pad_id: int  # token that fills up rows of a batch


def work(assignment: Assignment, report: Callable[[Progress], None]) -> Outcome:
    """Train and export as one of the ranks. Returns the Outcome; only that of rank 0 counts.

    All ranks return in the same way. If one rank left alone, the others would wait for it in their next exchange.
    The exception is a rank that runs out of memory: it raises OutOfMemory, and Ray ends the others.
    """
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        try:
            run = Run(assignment.task.runs, assignment.token)
            if assignment.task.training.entrypoint:
                return train_own(assignment.task, run, report, Path(scratch))
            return _work(assignment, run, report, Path(scratch))
        except torch.OutOfMemoryError as error:
            raise OutOfMemory(dist.get_rank(), str(error), told()) from error


def _work(assignment: Assignment, run: Run, report: Callable[[Progress], None], scratch: Path) -> Outcome:
    task = assignment.task
    if task.training.float8 and (lacking := lacking_gpu(device_of_worker())) is not None:
        return Outcome(failure=lacking)
    try:
        data = shared_data(task.data_uri, task.data_digest)
    except StageFailure as failure:  # on all ranks
        return Outcome(failure=failure)
    # If the same model has been loaded before, something else takes the memory.
    tell(None if run.has_started() else "loading")
    inputs, first = _load(task, data, scratch), dist.get_rank() == 0
    dist.barrier()  # the ranks of a pod share what it tells, and the last of them may be the one that lacks memory
    tell(None)
    model, optimizer = inputs.sharded.model, inputs.optimizer
    try:
        loop = _loop(task, run, inputs)
        begun = resume(run, model, optimizer, Run(task.resume_from, run.token) if task.resume_from else None)
        restarts = run.record_start(begun.step, dist.get_world_size(), task.nodes) if first else 0
        curve = curve_before(begun) if first else Curve()
        with (
            reporting() as track,
            at_work(Path(os.environ.get(FOLDER_ENV, scratch))) as worker,
        ):
            if first:
                track.begin(trackers_of(task, begun.step, scratch), curve.last(SENT_AGAIN))
            trained = replace(loop, curve=curve, track=track).run(
                model, optimizer, run, begun, report if first else lambda _: None, worker
            )
            check_owner(run)
        end = trained.end
        if trained.resized:
            return Outcome(resized=True)
        exported = use_best(run, model, end.step, end.validated) if loop.keeps_best else end.step
    except StageFailure as failure:  # these functions raise it on all ranks
        return Outcome(failure=failure)
    # Each driver has its own folder, so that a driver that is superseded from now on does not overwrite another model.
    uri, facts = join(task.output, run.token), _facts(trained, exported)
    plan = Export(task, inputs.base, inputs.data, facts, uri, curve, assignment.base_files)
    tell("export")
    try:
        digest = export(inputs.sharded, plan, scratch)
    except StageFailure as failure:  # on rank 0 alone, after all exchanges
        return Outcome(failure=failure)
    # The pod goes on telling its export, as other ranks may be in it for long. Its result will replace it.
    return Outcome(
        uri=uri,
        digest=digest,
        loss=trained.loss,
        reward=trained.reward,
        tokens_per_second=trained.tokens_per_second,
        mfu=trained.mfu,
        seconds=trained.seconds,
        peak_memory=trained.peak_memory,
        first_step=begun.step,
        restarts=restarts,
        skipped=end.skipped,
        steps=end.step,
        validated=end.validated,
        exported_step=exported,
    )


def _load(task: TrainTask, data: LocalData, scratch: Path) -> _Inputs:
    """Open the data, and load this rank's part of the model; every rank calls it."""
    device = device_of_worker()
    uri = task.model.uri or ""
    base = open_base(task, scratch / "base")
    mesh = Mesh.of(device.type, task.parallelism)
    sharded = load_sharded(base, uri, task.training, mesh, device, task.model.bases)
    limit_logits(sharded.model, task.logits_bytes)
    optimizer = build_optimizer(sharded.model, task.training)
    dataset, pad_id = data.dataset(FILE), load_tokenizer(base, uri).pad_token_id
    set_aside = data.dataset(VALIDATION) if task.training.validation else None
    if set_aside is not None:
        dataset.packed = set_aside.packed = dataset.packed or set_aside.packed
    return _Inputs(device, base, data.folder, sharded, optimizer, dataset, set_aside, pad_id)


def _loop(task: TrainTask, run: Run, inputs: _Inputs) -> Loop:
    """The loop without the curve of earlier steps. Every rank calls it, before the model has other weights."""
    training, sharded, micro_size = task.training, inputs.sharded, task.per_device_train_batch_size
    methods = partial(
        method_of,
        training,
        pad_id=inputs.pad_id,
        model=sharded.model,
        run=run,
        mesh=sharded.mesh,
        micro_size=micro_size,
    )
    method, validator = methods(inputs.dataset), None
    if training.validation is not None and inputs.set_aside is not None:
        held = methods(inputs.set_aside, rows="validation")
        validator = Validator(training.validation, held, micro_size, inputs.device, sharded.mesh)
    return Loop(
        training=training,
        method=method,
        micro_size=micro_size,
        total_steps=task.total_steps,
        device=inputs.device,
        mesh=sharded.mesh,
        reduction=task.gradient_reduction,
        background=task.checkpoints == "asynchronous",
        validator=validator,
        utilisation=_utilisation(task, inputs),
    )


def _utilisation(task: TrainTask, inputs: _Inputs) -> Utilisation | None:
    """How much of the GPUs a step uses; every rank calls it. None if it is not known.

    For kto some rows only go forward, and in float8 the peak is another one.
    """
    training, device = task.training, inputs.device
    if device.type != "cuda":
        return None
    products = from_all_ranks([torch.cuda.get_device_name(device)])
    in_bfloat16 = bool(training.bf16) and not training.float8 and training.method != "kto"
    facts = model_facts(load_config(inputs.base), training.adapter, merged=task.merge_adapter)
    return utilisation(facts, products, dist.get_world_size(), in_bfloat16=in_bfloat16)


def _facts(trained: Trained, exported: int) -> dict[str, Any]:
    """Figures for the model card. `exported`: the step from which the model's weights are."""
    rewards = {f"final reward {kind}": f"{value:.4f}" for kind, value in trained.reward.items()}
    losses = {f"{name} validation loss": f"{value:.4f}" for name, value in trained.end.validated.losses.items()}
    steps = {"skipped steps": trained.end.skipped} | ({"weights of step": exported} if losses else {})
    return {"final loss": f"{trained.loss:.4f}", **rewards, **losses, **steps}

"""What Ray Train runs in each worker."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

from driftloop.contract.task import TrainTask
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.folders import open_folder
from driftloop_trainer.models import load_model, load_tokenizer
from driftloop_trainer.train.board import Reporter
from driftloop_trainer.train.checkpoint import Run
from driftloop_trainer.train.export import export
from driftloop_trainer.train.loop import Loop, build_optimizer
from driftloop_trainer.train.sharding import shard
from driftloop_trainer.train.step import NonFinite

ASSIGNMENT = "assignment"  # Ray Train passes a dict


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the driver hands every worker. `token` is the driver's (see checkpoint.py), `board` shows progress."""

    task: TrainTask
    token: str
    board: Any


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training ended. `error` is set when starting again cannot help."""

    digest: str = ""
    loss: float = 0.0
    tokens_per_second: float = 0.0
    seconds: float = 0.0
    first_step: int = 0
    restarts: int = 0
    error: str | None = None


def work(config: dict[str, Any]) -> Any:
    """Train this worker's share and export: returns the Outcome, of which only rank 0's counts.

    All ranks return in the same way: one that left alone would keep the others waiting in their next exchange.
    """
    assignment: Assignment = config[ASSIGNMENT]
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        return _work(assignment.task, Run(assignment.task.runs, assignment.token), assignment.board, Path(scratch))


def _work(task: TrainTask, run: Run, board: Any, scratch: Path) -> Outcome:
    device = _device()
    torch.manual_seed(task.training.seed)  # dropout of adapters
    base = open_folder(task.model.uri or "", scratch / "base", task.model.digest)
    data = open_folder(task.data_uri, scratch / "data", task.data_digest)
    training = task.training
    model = shard(
        load_model(base, training.adapter).to(device),
        init_device_mesh(device.type, (dist.get_world_size(),)),
        bf16=training.bf16,
        gradient_checkpointing=training.gradient_checkpointing,
    )
    optimizer = build_optimizer(model, training)
    checkpoint = run.last()
    if checkpoint is not None:
        run.load(checkpoint, model, optimizer)
    first_step = checkpoint.step if checkpoint else 0
    first = dist.get_rank() == 0
    restarts = run.record_start(first_step, dist.get_world_size(), task.nodes) if first else 0
    loop = Loop(
        training=training,
        dataset=Dataset(data / FILE),
        pad_id=load_tokenizer(base, task.model.uri or "").pad_token_id,
        micro_size=task.per_device_train_batch_size,
        total_steps=task.total_steps,
        device=device,
    )
    try:
        trained = loop.run(model, optimizer, run, first_step, Reporter(board) if first else lambda _: None)
    except NonFinite as error:
        return Outcome(error=str(error))
    digest = export(model, task, base, data, scratch, {"final loss": f"{trained.loss:.4f}"})
    return Outcome(digest, trained.loss, trained.tokens_per_second, trained.seconds, first_step, restarts)


def _device() -> torch.device:
    """The GPU that Ray gave this worker, or the CPU."""
    if not torch.cuda.is_available() or dist.get_backend() == "gloo":
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device

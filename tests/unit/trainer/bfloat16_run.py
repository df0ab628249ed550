"""Trains in float32 and in bfloat16 on two ranks, for test_bfloat16.py: `bfloat16_run.py FOLDER`.

Writes the losses of each case of FOLDER/cases.json, as rank 0 saw them, to FOLDER/losses.json.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Parallelism, TrainingSpec
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.models import config_for
from driftloop_trainer.train.run import START, Run
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.sharding import shard
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks
from unit.trainer.sharded_run import PAD, SIZES

STEPS, BATCH, MICRO = 60, 16, 4


def losses(folder: Path, case: dict[str, Any]) -> list[float]:
    """The loss of each step."""
    training = TrainingSpec(train_batch_size=BATCH, learning_rate=5e-3, save_steps=STEPS, seed=case["seed"])
    mesh = Mesh.of("cpu", Parallelism(tensor=case["tensor"]))
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_for(SIZES | {"model_type": case["model_type"]}))  # type: ignore[no-untyped-call]
    model = shard(model.float(), mesh, bf16=case["bf16"], gradient_checkpointing=False, unit_bytes=1)
    run = Run(f"pvc://{case['name']}", "0000-test")
    if dist.get_rank() == 0:
        run.take_over()
    dist.barrier()
    seen: list[float] = []
    loop = Loop(training, NextToken(Dataset(folder / FILE), PAD), MICRO, STEPS, torch.device("cpu"), mesh)
    loop.run(model, build_optimizer(model, training), run, START, lambda progress: seen.append(progress.loss))
    return seen


def run_rank(folder: Path, rank: int, world_size: int) -> None:
    """Train all cases as one of the ranks."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=EXCHANGE_TIMEOUT)
    found = {case["name"]: losses(folder, case) for case in json.loads((folder / "cases.json").read_text())}
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    run_ranks(run_rank, Path(sys.argv[1]), 2)

"""Small trainings on pairs and labelled answers in float64, for test_preference_exactness.py.

`preference_run.py FOLDER`

Runs CASES, each as a rank of its world size, and writes the losses that rank 0 saw to FOLDER/<name>.json, and those on
the pairs that are set aside to FOLDER/<name>-validation.json. In FOLDER lie train.parquet, set-aside/train.parquet and,
as pvc://FOLDER, the checkpoints.
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch.distributed as dist

from driftloop.api.finetunejob import Adapter, Parallelism, TrainingSpec, Validation
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.worker import loss
from driftloop_trainer.train.worker.checkpoint import resume
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.choice import method_of
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.validate import Validator
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks
from unit.trainer.sharded_run import PAD, STEPS, tiny_model, training

LORA, OSF = Adapter(type="lora", r=4), Adapter(type="osf", effective_rank=0.4)
CASES: dict[str, dict[str, Any]] = {
    "four ranks": {"world_size": 4, "micro_size": 1},
    "two ranks": {"world_size": 2, "micro_size": 4},
    "accumulated, in chunks": {"world_size": 2, "micro_size": 1, "chunk": 8, "reduction": "microBatch"},
    "replicas": {"world_size": 4, "micro_size": 1, "replicas": 2},
    "replicas of adapters": {"world_size": 4, "micro_size": 2, "replicas": 2, "adapter": LORA},
    "adapters": {"world_size": 2, "micro_size": 2, "adapter": LORA},
    "osf": {"world_size": 2, "micro_size": 2, "adapter": OSF},
    "qwen3": {"world_size": 2, "micro_size": 2, "model_type": "qwen3"},
    "qwen3, replicas": {"world_size": 4, "micro_size": 1, "replicas": 2, "model_type": "qwen3"},
    "qwen3, adapters": {"world_size": 2, "micro_size": 2, "adapter": LORA, "model_type": "qwen3"},
    "qwen3, replicas of adapters": {
        "world_size": 4, "micro_size": 1, "replicas": 2, "adapter": LORA, "model_type": "qwen3"
    },
    "qwen3, osf": {"world_size": 2, "micro_size": 2, "adapter": OSF, "model_type": "qwen3"},
    "killed": {"world_size": 2, "micro_size": 4, "run": "interrupted", "save_steps": 2, "stop_after": 3},
    "another job": {"world_size": 2, "micro_size": 4, "resume_from": "interrupted"},
    "resumed": {"world_size": 1, "micro_size": 3, "run": "interrupted"},
    "labelled, four ranks": {"world_size": 4, "micro_size": 1, "method": "kto"},
    "labelled, accumulated, in chunks": {
        "world_size": 2, "micro_size": 1, "chunk": 8, "reduction": "microBatch", "method": "kto"
    },
    "labelled, replicas": {"world_size": 4, "micro_size": 2, "replicas": 2, "method": "kto"},
    "labelled, replicas of adapters": {
        "world_size": 4, "micro_size": 2, "replicas": 2, "adapter": LORA, "method": "kto"
    },
    "labelled, osf": {"world_size": 2, "micro_size": 4, "adapter": OSF, "method": "kto"},
    "labelled, adapters": {"world_size": 2, "micro_size": 4, "adapter": LORA, "method": "kto"},
    "labelled, qwen3": {"world_size": 2, "micro_size": 2, "model_type": "qwen3", "method": "kto"},
    "labelled, qwen3, replicas": {
        "world_size": 4, "micro_size": 1, "replicas": 2, "model_type": "qwen3", "method": "kto"
    },
    "labelled, qwen3, adapters": {
        "world_size": 2, "micro_size": 2, "adapter": LORA, "model_type": "qwen3", "method": "kto"
    },
    "labelled, qwen3, replicas of adapters": {
        "world_size": 4, "micro_size": 1, "replicas": 2, "adapter": LORA, "model_type": "qwen3", "method": "kto"
    },
    "labelled, qwen3, osf": {"world_size": 2, "micro_size": 2, "adapter": OSF, "model_type": "qwen3", "method": "kto"},
    "labelled, killed": {
        "world_size": 2, "micro_size": 4, "run": "relabelled", "save_steps": 2, "stop_after": 3, "method": "kto"
    },
    "labelled, resumed": {"world_size": 1, "micro_size": 3, "run": "relabelled", "method": "kto"},
}  # fmt: skip


def spec(save_steps: int = 100, method: str = "dpo") -> TrainingSpec:
    """Settings of a step as for rows with one answer."""
    weights = {"desirable_weight": 1.5, "undesirable_weight": 0.8} if method == "kto" else {}
    return training(save_steps).model_copy(update={"method": method, "beta": 0.3} | weights)


def run_case(folder: Path, name: str) -> tuple[list[float], list[float]]:
    """Losses of the steps that a case runs, and of its validations.

    It resumes if its `run` has a checkpoint, or else that of `resume_from`.
    """
    case = CASES[name]
    settings, micro_size = spec(case.get("save_steps", 100), case.get("method", "dpo")), case["micro_size"]
    mesh = Mesh.of("cpu", Parallelism(data_replicate=case.get("replicas", 1)))
    model = shard(
        tiny_model(case.get("adapter"), case.get("model_type", "llama")),
        mesh,
        bf16=False,
        gradient_checkpointing=False,
        unit_bytes=1,
    )
    optimizer = build_optimizer(model, settings)
    run = Run(f"pvc://{case.get('run', name.replace(' ', '-').replace(',', ''))}", "0000-test")
    if dist.get_rank() == 0:
        run.take_over()
    dist.barrier()
    losses: list[float] = []
    validations: list[float] = []

    def report(progress: Progress) -> None:
        if progress.step == begun.step + len(losses):
            validations.append(progress.validation["last"])
            return
        losses.append(progress.loss)
        if progress.step == case.get("stop_after"):
            raise InterruptedError

    with patch.object(loss, "chunk_tokens", return_value=case.get("chunk", 1000)):
        dataset = Dataset(folder / FILE)
        method = method_of(settings, dataset, PAD, model=model, run=run, mesh=mesh, micro_size=micro_size)
        aside = Dataset(folder / "set-aside" / FILE)
        validating = method_of(
            settings, aside, PAD, model=model, run=run, mesh=mesh, micro_size=micro_size, rows="validation"
        )
        validation = Validation(every_steps=1)
        other = Run(f"pvc://{case['resume_from']}", run.token) if "resume_from" in case else None
        begun = resume(run, model, optimizer, other)
        loop = Loop(
            settings,
            method,
            micro_size,
            STEPS,
            torch.device("cpu"),
            mesh,
            case.get("reduction", "step"),
            background=False,
            validator=Validator(validation, validating, micro_size, torch.device("cpu"), mesh),
        )
        try:
            loop.run(model, optimizer, run, begun, report)
        except InterruptedError:
            dist.barrier()
    return losses, validations


def run_rank(folder: Path, rank: int, world_size: int) -> None:
    """Run the cases of this world size as one of its ranks."""
    torch.set_num_threads(1)
    store = f"file://{folder}/store-{world_size}"
    dist.init_process_group("gloo", store, EXCHANGE_TIMEOUT, world_size, rank)
    for name in (name for name, case in CASES.items() if case["world_size"] == world_size):
        losses, validations = run_case(folder, name)
        if rank == 0:
            (folder / f"{name}.json").write_text(json.dumps(losses))
            (folder / f"{name}-validation.json").write_text(json.dumps(validations))
    dist.destroy_process_group()


def main(folder: Path) -> None:
    """Run the cases of each world size."""
    for world_size in (4, 2, 1):
        run_ranks(run_rank, folder, world_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

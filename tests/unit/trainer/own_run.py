"""Trainings of the user's own on two ranks, for test_own.py: `own_run.py FOLDER`.

FOLDER/volumes/claim has the code, the base model and the prepared rows. What each driver's rank 0 reported and returned
is in FOLDER/<token>.pickle.
"""

import os
import pickle
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from driftloop.contract.manifest import Manifest
from driftloop.contract.task import TrainTask
from driftloop_trainer.train.assignment import Assignment, Outcome
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.worker.own import BrokenEntrypoint
from driftloop_trainer.train.worker.worker import work
from unit.trainer.prepare.test_folder import folder
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks
from unit.trainer.train.worker.test_export import task_document

STEPS, SAVE_STEPS = 6, 2
# The entrypoints, the UIDs of their jobs and the tokens of their drivers. The second driver replaces the first one.
DRIVERS = [
    ("others:lost", "uid", "0000-a"),
    ("plain_torch:train", "uid", "0001-b"),
    ("others:pickled", "whole", "0000-c"),
    ("others:nothing", "nothing", "0000-d"),
    ("others:missing", "missing", "0000-e"),
    ("others:broken", "broken", "0000-f"),
]


def job(volume: Path, entrypoint: str, uid: str) -> TrainTask:
    """A job whose steps all have four rows."""
    training = {
        "entrypoint": entrypoint,
        "code": "pvc://claim/code",
        "trainBatchSize": 4,
        "learningRate": 1e-2,
        "saveSteps": SAVE_STEPS,
    }
    fields = {
        "training": training,
        "totalSteps": STEPS,
        "workersPerNode": 2,
        "checkpoints": "synchronous",  # the pods are lost right after one
        "dataDigest": Manifest.read(folder(volume)).digest,
        "runs": f"pvc://claim/runs/{uid}",
        "output": f"pvc://claim/versions/{uid}",
    }
    return TrainTask.model_validate(task_document() | fields)


def run_rank(path: Path, rank: int, world_size: int) -> None:
    """One worker in a pod, for one driver after the other."""
    os.environ["LOCAL_RANK"] = str(rank)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{path}/store",
        rank=rank,
        world_size=world_size,
        timeout=EXCHANGE_TIMEOUT,
    )
    for entrypoint, uid, token in DRIVERS:
        task = job(path / "volumes" / "claim", entrypoint, uid)
        if rank == 0:
            Run(task.runs, token).take_over()
        dist.barrier()
        reported: list[Progress] = []
        outcome: Any = None
        with suppress(InterruptedError):
            try:
                outcome = work(Assignment(task, token, None), reported.append)
            except BrokenEntrypoint as raised:
                outcome = Outcome(failure=raised)
        if rank == 0:
            (path / f"{token}.pickle").write_bytes(pickle.dumps((reported, outcome)))
        dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_ranks(run_rank, Path(sys.argv[1]), 2)

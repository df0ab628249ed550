"""Ranks that open prepared data together, for train/worker/test_data.py: `data_run.py FOLDER CASE`.

Ranks 0 and 1 are one pod, with FOLDER/disk-0 as its disk, and ranks 2 and 3 another one. FOLDER/data.json has what they
open. In FOLDER/<rank>.json each rank tells what it found, or its failure, and how long it took. Cases:
  good:  nothing happens
  full:  the disk of the second pod has no room
  lost:  the first worker of the second pod dies while it copies
"""

import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import FILE
from driftloop_trainer.train import localdata
from driftloop_trainer.train.worker.data import shared_data
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks

LOST = 2  # the rank that dies


def run_rank(case: str, folder: Path, rank: int, world_size: int) -> None:
    """One worker."""
    os.environ |= {"LOCAL_RANK": str(rank % 2), "DRIFTLOOP_DISK": str(folder / f"disk-{rank // 2}")}
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world_size, timeout=EXCHANGE_TIMEOUT
    )
    if case == "lost" and rank == LOST:
        vars(localdata)["flatten"] = lambda *_: os._exit(9)
    began = time.monotonic()
    told = _opened(folder)
    (folder / f"{rank}.json").write_text(json.dumps(told | {"seconds": time.monotonic() - began}))
    dist.destroy_process_group()


def _opened(folder: Path) -> dict[str, Any]:
    made: list[str] = []
    real = localdata._make

    def counted(uri: str, digest: str, place: Path) -> None:
        made.append(uri)
        real(uri, digest, place)

    localdata._make = counted
    order = json.loads((folder / "data.json").read_text())
    try:
        found = shared_data(order["uri"], order["digest"])
    except StageFailure as failure:
        return {"failure": [failure.reason, failure.message, failure.exit_code]}
    except RuntimeError as error:  # gloo's, when a peer is gone
        return {"lost": str(error)}
    return {"made": len(made), "place": str(found.folder), "ids": found.dataset(FILE).ids(0).tolist()}


if __name__ == "__main__":
    path, chosen = Path(sys.argv[1]), sys.argv[2]
    if chosen == "full":
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", path / "disk-1"], check=True)
    run_ranks(partial(run_rank, chosen), path, 4)

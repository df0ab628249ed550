"""The memory of a process that loads and exports a model which transformers can't load in parts, for
test_memory_plan.py: `whole_memory.py FOLDER` prints the peaks, in bytes above what it had before, as JSON.

FOLDER has the base model, as pvc://rearranged, and the prepared data's folder `data`.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from driftloop.api.finetunejob import Adapter
from driftloop.contract.task import TrainTask
from driftloop_trainer.models import load_model
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.loading import load_sharded
from driftloop_trainer.train.worker.loop import build_optimizer
from driftloop_trainer.train.worker.memory import peak_memory
from driftloop_trainer.train.worker.mesh import Mesh

CPU = torch.device("cpu")


def main(folder: Path) -> None:
    """Load the model, take an optimiser step without a gradient, and export it."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/alone", rank=0, world_size=1)
    load_model(folder / "small", Adapter())  # imports what loading imports
    before = peak_memory(CPU)["resident"]
    task = TrainTask.model_validate(json.loads((folder / "task.json").read_text()))
    sharded = load_sharded(folder / "rearranged", "pvc://rearranged", task.training, Mesh.of("cpu"), CPU)
    loaded = peak_memory(CPU)["resident"] - before
    optimizer = build_optimizer(sharded.model, task.training)
    for parameter in sharded.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    (folder / "scratch").mkdir()
    plan = Export(task, folder / "rearranged", folder / "data", {}, "pvc://out/rearranged")
    export(sharded, plan, folder / "scratch")
    print(json.dumps({"loading": loaded, "export": peak_memory(CPU)["resident"] - before}))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

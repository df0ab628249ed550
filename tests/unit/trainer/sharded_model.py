"""One rank that loads and exports models, for test_sharded_model.py: `sharded_model.py FOLDER RANK RANKS`.

FOLDER has the base models, as pvc://NAME, and the prepared data's folder `data`. Each model is left again at
pvc://out/NAME. The large one is loaded and exported under a limit that is lower than its size. Rank 0 writes to
FOLDER/outcome.json what came of it.
"""

import json
import resource
import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter, Parallelism, TrainingSpec
from driftloop.contract.task import TrainTask
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.loading import load_sharded, plain_name
from driftloop_trainer.train.worker.mesh import Mesh

LARGE = "large"
ALLOWED = 230 << 20  # bytes that a rank may add to what it had after its imports; the large model has 324 MB
SMALL = ("tied", "untied", "mixtral", "gpt2")
SPLIT = ("tied", "untied")  # also loaded with each matrix over two ranks, and in two stages; the vocabulary is odd
TENSOR, PIPELINE = "tensor", "pipeline"
GRIDS = {TENSOR: Parallelism(tensor=2), PIPELINE: Parallelism(pipeline=2)}


def main(folder: Path, rank: int, ranks: int) -> None:
    """Load and export every model."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=timedelta(seconds=120))
    outcome: dict[str, Any] = {}
    for name in SMALL:
        reference = dict(AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32).named_parameters())
        for adapter in ("none", "lora"):
            differing = run(folder, rank, name, adapter, reference)
            outcome[f"{name} {adapter}"] = differing
        if name in SPLIT:
            for grid in GRIDS:
                outcome[f"{name} {grid}"] = run(folder, rank, name, "none", reference, grid)
    limit = resident() + ALLOWED
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    outcome[LARGE] = run(folder, rank, LARGE, "none", {})
    outcome["whole"] = whole(folder / LARGE)
    if rank == 0:
        (folder / "outcome.json").write_text(json.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()


def run(
    folder: Path, rank: int, name: str, adapter: str, reference: Mapping[str, torch.Tensor], grid: str | None = None
) -> list[str]:
    """Load and export a model. Returns the names of the weights that differ from `reference`."""
    training = TrainingSpec(adapter=Adapter(type=adapter, r=2))
    mesh = Mesh.of("cpu", GRIDS.get(grid or ""))
    sharded = load_sharded(folder / name, f"pvc://{name}", training, mesh, torch.device("cpu"))
    differing = []
    for full_name, weight in sharded.model.named_parameters():
        whole_weight = weight.full_tensor()
        name_there = plain_name(full_name)
        if name_there == "lm_head.weight" and name_there not in reference:
            name_there = "model.embed_tokens.weight"  # a last stage has tied embeddings under this name only
        if ".lora_" not in full_name and reference and not torch.equal(whole_weight, reference[name_there]):
            differing.append(full_name)
    task = TrainTask.model_validate(json.loads((folder / "task.json").read_text()) | {"training": training.dump()})
    scratch = folder / f"scratch-{rank}-{name}-{adapter}-{grid}"
    scratch.mkdir()
    export(
        sharded,
        Export(task, folder / name, folder / "data", {}, f"pvc://out/{name}-{grid or adapter}"),
        scratch,
    )
    return differing


def resident() -> int:
    """Bytes of this process's own memory (proc(5), VmData): what RLIMIT_DATA counts."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (data,) = (int(line.split()[1]) for line in lines if line.startswith("VmData"))
    return data << 10


def whole(folder: Path) -> str:
    """What comes of loading the whole model under the same limit."""
    try:
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    except (RuntimeError, MemoryError):
        return "out of memory"
    return "loaded"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

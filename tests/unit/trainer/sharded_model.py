"""Ranks that load and export models, for test_sharded_model.py: `sharded_model.py FOLDER`.

FOLDER has the base models, as pvc://NAME, and the prepared data's folder `data`. Each model is left again at
pvc://out/NAME. The large one is loaded and exported under a limit that is lower than its size. Rank 0 writes to
FOLDER/outcome.json what came of it.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter, Parallelism, TrainingSpec
from driftloop.contract.task import TrainTask
from driftloop.podlib.adapters import base_files
from driftloop_trainer.models import plain_name
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.loading import is_adapter, load_sharded, place
from driftloop_trainer.train.worker.mesh import Mesh
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks

RANKS = 4
LARGE = "large"
ALLOWED = 230 << 20  # bytes that a rank may add to what it had after its imports; the large model has 324 MB
SMALL = ("tied", "untied", "mixtral", "gpt2", "rearranged")
SPLIT = ("tied", "untied")  # also loaded with each matrix over two ranks, and in two stages; the vocabulary is odd
WAYS = {  # how a model is loaded: its adapter and the grid
    "none": ("none", Parallelism()),
    "lora": ("lora", Parallelism()),
    "tensor": ("none", Parallelism(tensor=2)),
    "lora-tensor": ("lora", Parallelism(tensor=2)),
    "pipeline": ("none", Parallelism(pipeline=2)),
    "stages": ("none", Parallelism(pipeline=2, stages_per_worker=2)),
    "replicas": ("none", Parallelism(data_replicate=2)),
    "osf": ("osf", Parallelism(data_replicate=2)),
    "pipeline-replicas": ("none", Parallelism(pipeline=2, data_replicate=2)),
    "lora-pipeline-tensor": ("lora", Parallelism(pipeline=2, tensor=2)),
    "qlora": ("qlora", Parallelism()),
    "qlora-replicas": ("qlora", Parallelism(data_replicate=2)),
}
CHANGED = ("osf", "qlora", "qlora-replicas")  # not exported as they were stored
LOADED = [
    (name, way) for name in SMALL for way in WAYS if way in ("none", "lora") or (name in SPLIT and way not in CHANGED)
]
TRAINED, ALONE = "-trained", "-alone"


def main(folder: Path) -> None:
    """Load and export every model on all ranks."""
    run_ranks(run_rank, folder, RANKS)


def run_rank(folder: Path, rank: int, world_size: int) -> None:
    """Load and export every model as one of the ranks."""
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size, timeout=EXCHANGE_TIMEOUT)
    outcome: dict[str, Any] = {}
    for name in SMALL:
        loaded = AutoModelForCausalLM.from_pretrained(folder / name, dtype=torch.float32)
        reference: dict[str, torch.Tensor] = dict(loaded.named_parameters())
        for way in [way for which, way in LOADED if which == name]:
            outcome[f"{name} {way}"] = run(folder, rank, name, way, reference)
            if name == "untied" and WAYS[way][0] == "lora":
                run(folder, rank, name, way, reference, trained=True)
    run(folder, rank, "untied", "osf", {})
    for way in ("qlora", "qlora-replicas"):
        run(folder, rank, "untied", way, {}, trained=True)
    limit = resident() + ALLOWED
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))
    outcome[LARGE] = run(folder, rank, LARGE, "none", {})
    outcome["whole"] = whole(folder / LARGE)
    if rank == 0:
        (folder / "outcome.json").write_text(json.dumps(outcome))
    dist.barrier()
    dist.destroy_process_group()


def run(
    folder: Path, rank: int, name: str, way: str, reference: dict[str, torch.Tensor], *, trained: bool = False
) -> list[str]:
    """Load and export a model. Returns the names of the weights that differ from `reference`.

    Adapters are added to `reference`: they start alike in every grid. `trained`: change them before the export.
    """
    adapter, parallelism = WAYS[way]
    training = TrainingSpec(adapter=Adapter(type=adapter, r=2))
    mesh = Mesh.of("cpu", parallelism)
    sharded = load_sharded(folder / name, f"pvc://{name}", training, mesh, torch.device("cpu"))
    differing, compared = [], bool(reference)
    for full_name, weight in sharded.model.named_parameters():
        whole_weight = weight.full_tensor()
        name_there = full_name if is_adapter(full_name) else plain_name(full_name)
        if ".lora_" in full_name:
            reference.setdefault(full_name, whole_weight)
        if name_there == "lm_head.weight" and name_there not in reference:
            name_there = "model.embed_tokens.weight"  # a last stage has tied embeddings under this name only
        if compared and not torch.equal(whole_weight, reference[name_there]):
            differing.append(full_name)
        if trained and ".lora_B." in full_name:
            change(weight)
    task = TrainTask.model_validate(json.loads((folder / "task.json").read_text()) | {"training": training.dump()})
    left = f"{name}-{way}{TRAINED if trained else ''}"
    scratch = folder / f"scratch-{rank}-{left}"
    scratch.mkdir()
    export(sharded, Export(task, folder / name, folder / "data", {}, f"pvc://out/{left}"), scratch)
    if trained and adapter in ("lora", "qlora"):
        alone = task.model_copy(
            update={"merge_adapter": False, "model": task.model.model_copy(update={"uri": f"pvc://{name}"})}
        )
        files = base_files(f"pvc://{name}", (), folder / name)
        plan = Export(alone, folder / name, folder / "data", {}, f"pvc://out/{left}{ALONE}", base_files=files)
        (scratch / "alone").mkdir()
        export(sharded, plan, scratch / "alone")
    return differing


@torch.no_grad()
def change(weight: DTensor) -> None:
    """Give each element another value, the same ones in every grid."""
    values = torch.arange(weight.numel(), dtype=weight.dtype).view(weight.shape)
    place(values, weight, source=None)


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
    main(Path(sys.argv[1]))

"""What checkpoints cost the training loop: `python bench/checkpoints.py [--workers N] [--width N] [--blocks N]`.

Three loops train a Llama, sharded over processes with one CPU thread each: without checkpoints, with one every 20 steps
for which training waits, and with one every 20 steps that is written meanwhile. They alternate in blocks of 20 steps,
so that load on the machine affects all. A block begins with its checkpoint and ends when that is complete, so what is
left of the writing after 20 steps counts too. Prints the median seconds of a block, and the median and the worst of the
ratios to the loop without checkpoints (1.0: a checkpoint costs nothing). The writing takes CPU time of its own, which
the steps of a GPU would not miss.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop.api.finetunejob import TrainingSpec
from driftloop_trainer.dataset import FILE, Dataset, write_dataset
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.worker.batches import Batch, collate
from driftloop_trainer.train.worker.loop import build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.saver import Saver
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.step import train_step

STEPS, ROWS, LENGTH, VOCABULARY = 20, 32, 64, 2048


def new_model(width: int) -> Any:
    """A model of four layers with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes))  # type: ignore[arg-type]


def batch(folder: Path) -> Batch:
    """Rows of the same length."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, size=(ROWS, LENGTH)).tolist()
    folder.mkdir()
    write_dataset(folder, ids, ids, [[LENGTH]] * ROWS)
    return collate(Dataset(folder / FILE), range(ROWS), 0)


def loop(rows: Batch, width: int, saver_of: Callable[[Any, Any], Saver] | None) -> Callable[[int], None]:
    """A function that runs a block, with a model of its own."""
    mesh = Mesh.of("cpu")
    model = shard(new_model(width), mesh, bf16=False, gradient_checkpointing=False)
    optimizer = build_optimizer(model, TrainingSpec())
    saver = saver_of(model, optimizer) if saver_of else None
    tokens = ROWS * (LENGTH - 1) * dist.get_world_size()
    train_step(model, optimizer, mesh, [rows], tokens, 1.0)

    def block(number: int) -> None:
        if saver:
            saver.save(Position(number + 1))
        for _ in range(STEPS):
            train_step(model, optimizer, mesh, [rows], tokens, 1.0)
        if saver:
            saver.wait()

    return block


def measure(folder: Path, width: int, blocks: int) -> dict[str, list[float]]:
    """Seconds of each block of the three loops."""
    rows = batch(folder / f"rows-{dist.get_rank()}")

    def saver_of(name: str, background: bool) -> Callable[[Any, Any], Saver]:
        run = Run(f"pvc://{name}", "0000-bench")
        if dist.get_rank() == 0:
            run.take_over()
        dist.barrier()
        return lambda model, optimizer: Saver(run, model, optimizer, 2, background=background)

    loops = {
        "without": loop(rows, width, None),
        "synchronous": loop(rows, width, saver_of("synchronous", background=False)),
        "asynchronous": loop(rows, width, saver_of("asynchronous", background=True)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(blocks + 1):
        for name, block in loops.items():
            dist.barrier()
            started = time.monotonic()
            block(number)
            seconds[name] += [time.monotonic() - started] if number else []  # the first block is a warm-up
    return seconds


def work(rank: int, workers: int, folder: str, width: int, blocks: int) -> None:
    """One of the processes. The first prints one line per loop."""
    os.environ["DRIFTLOOP_VOLUMES"] = folder
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=workers)
    seconds = measure(Path(folder), width, blocks)
    for kind, values in seconds.items() if rank == 0 else ():
        ratios = [own / plain for own, plain in zip(values, seconds["without"], strict=True)]
        print(f"{kind}: {median(values):.2f} s, ratio {median(ratios):.3f} (at most {max(ratios):.3f})", flush=True)
    dist.destroy_process_group()


def main() -> None:
    """Run the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="processes that share the model")
    parser.add_argument("--width", type=int, default=512, help="hidden size of the model")
    parser.add_argument("--blocks", type=int, default=10, help="blocks per loop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        shared = (arguments.workers, folder, arguments.width, arguments.blocks)
        torch.multiprocessing.spawn(work, shared, nprocs=arguments.workers)


if __name__ == "__main__":
    main()

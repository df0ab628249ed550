"""What checkpoints cost the training loop: `python bench/checkpoints.py [--width N] [--blocks N]`.

Three loops train a Llama on one CPU thread: without checkpoints, with one every 20 steps for which training waits, and
with one every 20 steps that is written meanwhile. They alternate in blocks of 20 steps, so that load on the machine
affects all. A block begins with its checkpoint and ends when that is complete. Prints the median seconds of a block and
the median of the ratios to the loop without checkpoints (1.0: a checkpoint costs nothing).
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
    write_dataset(folder, ids, ids, [[LENGTH]] * ROWS)
    return collate(Dataset(folder / FILE), range(ROWS), 0)


def loop(rows: Batch, width: int, saver_of: Callable[[Any, Any], Saver] | None) -> Callable[[int], None]:
    """A function that runs a block, with a model of its own."""
    mesh = Mesh.of("cpu")
    model = shard(new_model(width), mesh, bf16=False, gradient_checkpointing=False)
    optimizer = build_optimizer(model, TrainingSpec())
    saver = saver_of(model, optimizer) if saver_of else None
    tokens = ROWS * (LENGTH - 1)
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
    rows = batch(folder)

    def saver_of(name: str, background: bool) -> Callable[[Any, Any], Saver]:
        run = Run(f"pvc://{name}", "0000-bench")
        run.take_over()
        return lambda model, optimizer: Saver(run, model, optimizer, 2, background=background)

    loops = {
        "without": loop(rows, width, None),
        "synchronous": loop(rows, width, saver_of("synchronous", background=False)),
        "asynchronous": loop(rows, width, saver_of("asynchronous", background=True)),
    }
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(blocks + 1):
        for name, block in loops.items():
            started = time.monotonic()
            block(number)
            seconds[name] += [time.monotonic() - started] if number else []  # the first block is a warm-up
    return seconds


def main() -> None:
    """Print one line per loop."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=512, help="hidden size of the model")
    parser.add_argument("--blocks", type=int, default=10, help="blocks per loop")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["DRIFTLOOP_VOLUMES"] = name
        dist.init_process_group("gloo", init_method=f"file://{name}/store", rank=0, world_size=1)
        seconds = measure(Path(name), arguments.width, arguments.blocks)
        for kind, values in seconds.items():
            ratio = median(own / plain for own, plain in zip(values, seconds["without"], strict=True))
            print(f"{kind}: {median(values):.2f} s, ratio {ratio:.3f}")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

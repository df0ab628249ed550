"""Our training step compared with a bare torch loop: `python bench/train_loop.py [--steps N]`.

With --compiled, our step with compiled layers (`training.compile`, needs g++) is compared with our plain one.

Both train the demo's Llama with 1.1M parameters on one CPU thread with the same random batches. They alternate, so that
load on the machine affects both. Prints tokens per CPU second and the ratio (1.0: as fast as the bare loop).
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import Course
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker.batches import collate
from driftloop_trainer.train.worker.compiled import bucket
from driftloop_trainer.train.worker.loop import build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.order import Order
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.step import train_step

BATCH, ROWS, VOCABULARY, WARM_UP = 64, 2048, 2048, 4


def new_model() -> Any:
    """A model like the demo's, with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes))  # type: ignore[arg-type]


def data(folder: Path, masked: bool) -> Dataset:
    """Rows with the length of support requests. With `masked` only their last third counts, like a completion."""
    random = np.random.default_rng(0)
    ids = [random.integers(1, VOCABULARY, size=int(n)).tolist() for n in random.integers(8, 40, size=ROWS)]
    labels = [[IGNORED] * (2 * len(row) // 3 if masked else 1) for row in ids]
    labels = [mask + row[len(mask) :] for mask, row in zip(labels, ids, strict=True)]
    write_dataset(folder, ids, labels, [[len(row)] for row in ids])
    return Dataset(folder / FILE)


def ours(dataset: Dataset, backend: str | None = None) -> Callable[[Any], None]:
    """The product's training step. `backend`: what compiles its layers."""
    mesh = Mesh.of("cpu")
    model = shard(new_model(), mesh, bf16=False, gradient_checkpointing=False, backend=backend)
    optimizer = build_optimizer(model, TrainingSpec())

    def step(rows: Any) -> None:
        batch = collate(dataset, rows, 0)
        if backend is not None:
            batch = batch.filled(len(rows), bucket(batch.ids.shape[1]))
        train_step(model, optimizer, mesh, [batch], int(dataset.trained[rows].sum()), 1.0)

    return step


def bare(dataset: Dataset) -> Callable[[Any], None]:
    """The shortest step that does the same: pad, forward, cross-entropy, backward, clip, step."""
    model = new_model()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(rows: Any) -> None:
        sequences = [torch.from_numpy(dataset.ids(row).astype(np.int64)) for row in rows]
        labels = [torch.from_numpy(dataset.labels(row).astype(np.int64)) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)[:, 1:]
        logits = model(ids, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def compare(dataset: Dataset, steps: int, loops: dict[str, Callable[[Any], None]]) -> dict[str, float]:
    """Tokens per CPU second of both loops. Compiling takes a part of the first steps, which don't count."""
    training = TrainingSpec(train_batch_size=BATCH, max_steps=steps + WARM_UP)
    order = Order(dataset.lengths, Course.of(training, len(dataset)), seed=0)
    spent = dict.fromkeys(loops, 0.0)
    tokens = 0
    for number in range(steps + WARM_UP):
        rows = order.batch(number)
        for name, step in loops.items():
            started = time.process_time()
            step(rows)
            spent[name] += (time.process_time() - started) * (number >= WARM_UP)
        tokens += int(dataset.lengths[rows].sum()) * (number >= WARM_UP)
    return {name: tokens / seconds for name, seconds in spent.items()}


def main() -> None:
    """Print one line per kind of data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps per loop")
    parser.add_argument("--compiled", action="store_true", help="compare our compiled step with our plain one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        dist.init_process_group("gloo", init_method=f"file://{name}/store", rank=0, world_size=1)
        for kind, masked in (("all tokens count", False), ("the last third counts", True)):
            dataset = data(Path(name), masked)
            first, second = ("compiled", "ours") if arguments.compiled else ("ours", "bare")
            makers = {"compiled": partial(ours, backend="inductor"), "ours": ours, "bare": bare}
            speeds = compare(dataset, arguments.steps, {loop: makers[loop](dataset) for loop in (first, second)})
            ratio = speeds[first] / speeds[second]
            print(f"{kind}: {first} {speeds[first]:.0f}, {second} {speeds[second]:.0f} tokens/s, ratio {ratio:.2f}")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

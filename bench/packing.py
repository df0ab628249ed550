"""Packed rows kept apart by a mask, or attended to row by row.

`PYTHONPATH=operator:trainer_image python bench/packing.py [--tokens N] [--rounds N]`

The same small Llama on one CPU thread computes loss and gradient of one sequence, packed from more and more rows of
equal length. Time: CPU seconds, both ways in turn, so that load on the machine affects both; the ratio is the median
over the rounds. Memory: what a process of its own needs for the step beyond what it had before.
"""

import argparse
import os
import resource
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop_trainer.dataset import FILE, Dataset, write_dataset
from driftloop_trainer.train.worker.attention import attend_by_document
from driftloop_trainer.train.worker.batches import Batch, collate
from driftloop_trainer.train.worker.loss import loss_sum

ROWS = (4, 32, 256)
WAYS = ("mask", "row by row")
VOCABULARY = 512


def new_model(way: str) -> Any:
    """Two layers of a small Llama with random weights."""
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, **sizes)  # type: ignore[arg-type]
    model = LlamaForCausalLM(config)
    if way != "mask":
        attend_by_document(model)
    return model


def packed(tokens: int, rows: int) -> Batch:
    """One sequence of `tokens` from `rows` rows."""
    ids = np.random.default_rng(0).integers(1, VOCABULARY, size=tokens).tolist()
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), [ids], [ids], [[tokens // rows] * rows])
        return collate(Dataset(Path(folder) / FILE), [0], pad_id=0)


def step(model: Any, batch: Batch) -> float:
    """CPU seconds of loss and gradient."""
    began = time.process_time()
    loss_sum(model, batch).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return time.process_time() - began


def seconds(tokens: int, rows: int, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round by way."""
    models, batch = {way: new_model(way) for way in WAYS}, packed(tokens, rows)
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds + 1):
        for way, model in models.items():
            spent[way].append(step(model, batch))
    return {way: times[1:] for way, times in spent.items()}  # the first round is a warm-up


def peak(way: str, tokens: int, rows: int) -> int:
    """MiB that the first step of this process needs beyond model and libraries."""
    model, batch = new_model(way), packed(tokens, rows)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(model, batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10


def measured_peak(way: str, tokens: int, rows: int) -> int:
    """`peak` in a process of its own."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply_async(peak, (way, tokens, rows)).get(timeout=600)


def main() -> None:
    """Print one line per number of rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096, help="tokens of the sequence")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    options = parser.parse_args()
    # Memory first: a fork starts with what this process has.
    peaks = {rows: {way: measured_peak(way, options.tokens, rows) for way in WAYS} for rows in ROWS}
    for rows, memory in peaks.items():
        spent = seconds(options.tokens, rows, options.rounds)
        ratio = median(old / new for old, new in zip(*(spent[way] for way in WAYS), strict=True))
        times = " and ".join(f"{median(spent[way]):.2f} s" for way in WAYS)
        needed = " and ".join(f"{memory[way]} MiB" for way in WAYS)
        print(
            f"{options.tokens} tokens of {rows} rows, with a mask and row by row: {times}, ratio {ratio:.1f}; "
            f"{needed}, ratio {memory['mask'] / memory['row by row']:.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()

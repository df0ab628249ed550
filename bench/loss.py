"""The loss of a large vocabulary: with all logits at once, or those of some tokens at a time.

`PYTHONPATH=operator:trainer_image python bench/loss.py [--vocabulary N] [--tokens N] [--rounds N]`

The same small Llama on one CPU thread computes loss and gradient of the same tokens:
  whole:    all logits at once
  weighted: in chunks, whose logits are computed again in the backward pass; of a loss that weighs each token (dpo, kto)
  summed:   in chunks, whose gradient follows in the forward pass; of a sum (sft, pretrain)
Time: CPU seconds, in turn, so that load on the machine affects all; the ratio is the median over the rounds. Memory:
what a process of its own needs for the step beyond what it had before.
"""

import argparse
import os
import resource
import time
from collections.abc import Callable
from multiprocessing import get_context
from statistics import median
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop_trainer.train.worker import loss
from driftloop_trainer.train.worker.batches import Batch

CHUNKS = 8


def new_model(vocabulary: int) -> Any:
    """Four layers of a small Llama with random weights."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **sizes))  # type: ignore[arg-type]


def whole(model: Any, batch: Batch) -> torch.Tensor:
    """The loss from one chunk."""
    with patch.object(loss, "chunk_tokens", return_value=batch.targets.numel()):
        return loss.loss_sum(model, batch)


def weighted(model: Any, batch: Batch) -> torch.Tensor:
    """The loss from each token's."""
    with patch.object(loss, "chunk_tokens", return_value=batch.targets.numel() // CHUNKS):
        return loss.token_losses(model, batch).sum()


def summed(model: Any, batch: Batch) -> torch.Tensor:
    """The loss as a sum."""
    with patch.object(loss, "chunk_tokens", return_value=batch.targets.numel() // CHUNKS):
        return loss.loss_sum(model, batch)


WAYS: dict[str, Callable[[Any, Batch], torch.Tensor]] = {"whole": whole, "weighted": weighted, "summed": summed}


def step(way: str, model: Any, batch: Batch) -> float:
    """CPU seconds of loss and gradient."""
    began = time.process_time()
    WAYS[way](model, batch).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return time.process_time() - began


def inputs(vocabulary: int, tokens: int) -> tuple[Any, Batch]:
    """A model, and rows of 512 random tokens."""
    model = new_model(vocabulary)
    ids = torch.randint(1, vocabulary, (max(1, tokens // 512), 513))
    return model, Batch(ids, ids[:, 1:].contiguous(), torch.arange(512))


def peak(way: str, vocabulary: int, tokens: int) -> int:
    """MiB that the first step of this process needs beyond model and libraries."""
    torch.set_num_threads(1)
    model, batch = inputs(vocabulary, tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(way, model, batch)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10


def measured_peak(way: str, vocabulary: int, tokens: int) -> int:
    """`peak` in a process of its own."""
    with get_context("fork").Pool(1) as pool:
        return pool.apply_async(peak, (way, vocabulary, tokens)).get(timeout=600)


def main() -> None:
    """Print a line per way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=32_000, help="tokens that the model knows")
    parser.add_argument("--tokens", type=int, default=2048, help="tokens of the batch")
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds")
    options = parser.parse_args()
    # Memory first: a fork starts with what this process has.
    memory = {way: measured_peak(way, options.vocabulary, options.tokens) for way in WAYS}
    torch.set_num_threads(1)
    model, batch = inputs(options.vocabulary, options.tokens)
    spent: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(options.rounds + 1):
        for way, seconds in spent.items():
            taken = step(way, model, batch)
            seconds += [taken] if number else []  # the first round is a warm-up
    for way, seconds in spent.items():
        ratio = median(taken / whole for taken, whole in zip(seconds, spent["whole"], strict=True))
        print(f"{way}: {median(seconds):.2f} s, {ratio:.2f} of whole; {memory[way]} MiB", flush=True)


if __name__ == "__main__":
    main()

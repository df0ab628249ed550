"""A pipeline with one stage per worker compared with several: `python bench/pipeline_schedules.py`.

`PYTHONPATH=operator:trainer_image python bench/pipeline_schedules.py [--micro-batches N …] [--rounds N]`

Two processes with one CPU thread each train the same Llama with random weights. Both ways alternate, step by step, so
that load on the machine affects both. Prints the median of the ratio of their seconds per step: how many times as fast
several stages are. What the schedules alone would give: workers compute M / (M + N - 1) of the time with one stage, and
MV / (MV + N - 1) with V stages, for M micro-batches on N workers.
"""

import argparse
import os
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop.api.finetunejob import Parallelism, TrainingSpec
from driftloop_trainer.train.worker.batches import Batch
from driftloop_trainer.train.worker.loop import build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.pipeline import staged
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.step import train_step

WORKERS, STAGES, WARM_UP = 2, (1, 2, 4), 2
VOCABULARY, ROWS, TOKENS = 512, 4, 128


def new_model() -> Any:
    """Eight layers with random weights, and a small vocabulary: the last stage shall not have much more to do."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 8, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **sizes))  # type: ignore[arg-type]


class Way:
    """A model in stages, and its optimizer."""

    def __init__(self, stages: int) -> None:
        self.mesh = Mesh.of("cpu", Parallelism(pipeline=WORKERS, stages_per_worker=stages))
        model = shard(new_model(), self.mesh, bf16=False, gradient_checkpointing=False)
        self.optimizer = build_optimizer(model, TrainingSpec())
        self.model = staged(model, self.mesh, 0, bf16=False)

    def step(self, batches: list[Batch]) -> float:
        """Seconds of one step."""
        dist.barrier()
        began = time.perf_counter()
        train_step(self.model, self.optimizer, self.mesh, batches, len(batches) * ROWS * (TOKENS - 1), 1.0)
        return time.perf_counter() - began


def batch(number: int) -> Batch:
    """Rows of random tokens, which all count."""
    ids = torch.randint(1, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(number))
    return Batch(ids, ids[:, 1:].contiguous(), torch.arange(TOKENS - 1))


def measure(rank: int, folder: str, micro_batches: list[int], rounds: int) -> None:
    """As one of the workers."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    ways = {stages: Way(stages) for stages in STAGES}
    for count in micro_batches:
        batches = [batch(number) for number in range(count)]
        spent: dict[int, list[float]] = {stages: [] for stages in STAGES}
        for number in range(rounds + WARM_UP):
            for stages, way in ways.items():
                seconds = way.step(batches)
                if number >= WARM_UP:
                    spent[stages].append(seconds)
        if rank == 0:
            report(count, spent)
    dist.destroy_process_group()


def report(count: int, spent: dict[int, list[float]]) -> None:
    """Print a line per number of stages."""
    one = STAGES[0]
    for stages in STAGES[1:]:
        ratio = median(first / other for first, other in zip(spent[one], spent[stages], strict=True))
        alone = (count + WORKERS - 1) / count * count * stages / (count * stages + WORKERS - 1)
        print(
            f"{count} micro-batches: {stages} stages per worker {median(spent[stages]):.3f} s per step, one "
            f"{median(spent[one]):.3f} s, {ratio:.2f} times as fast; by the schedule alone {alone:.2f}",
            flush=True,
        )


def main() -> None:
    """Start the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batches", type=int, nargs="+", default=[2, 4, 8], help="micro-batches per step")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each way")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fork = get_context("fork")
        given = (str(Path(folder)), arguments.micro_batches, arguments.rounds)
        workers = [fork.Process(target=measure, args=(rank, *given)) for rank in range(WORKERS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        raise SystemExit(max(worker.exitcode or 0 for worker in workers))


if __name__ == "__main__":
    main()

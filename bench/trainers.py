"""Our training loop compared with TRL's and with a bare torch loop, on two processes: `python bench/trainers.py`.

`PYTHONPATH=operator:trainer_image:TRL python bench/trainers.py [--width N] [--rounds N] [--steps N]`, where TRL is the
folder that `make test-long PART=entrypoints` installs it into (~/.cache/driftloop/trl-…).

Two processes with one CPU thread each train the same Llama in float32, sharded by FSDP2 over gloo, on the same rows:
  ours: the whole loop of the training pods, with prefetched batches, curve and progress
  bare: pad, forward, cross-entropy, backward, clip, step, and the mean loss of all ranks
  trl:  SFTTrainer, with accelerate's FSDP2
They alternate, step by step, so that load on the machine affects all. A round is a number of steps of each. Fails if
the losses differ: then they would not do the same. Prints the median over the rounds of how many times as fast ours is
as another, with the bounds of its 95 % interval: by the clock, and by the CPU seconds of both processes, on which other
load has less effect. Above 1.0 ours is faster.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import comb
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.course import Course
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.run import START, Run
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.order import Order
from driftloop_trainer.train.worker.sharding import shard

WORKERS, WARM_UP = 2, 4
BATCH, ROWS, VOCABULARY, LEARNING_RATE = 32, 2048, 2048, 1e-3
TOLERANCE = 1e-3  # relative: in float32 three ways to add up drift apart


@dataclass(frozen=True)
class Job:
    """What all ways train: the rows, their order, and the steps."""

    folder: Path
    dataset: Dataset
    width: int
    steps: int

    @property
    def training(self) -> TrainingSpec:
        """One micro-batch per worker and step, at a constant rate."""
        return TrainingSpec(
            train_batch_size=BATCH,
            max_steps=self.steps,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            warmup_ratio=0.0,
            save_steps=10_000,
        )

    @property
    def batches(self) -> list[Any]:
        """The rows of each step, in our order."""
        order = Order(self.dataset.lengths, Course.of(self.training, len(self.dataset)), self.training.seed)
        return [order.batch(step) for step in range(self.steps)]

    def model(self) -> Any:
        """Four layers with random weights."""
        torch.manual_seed(0)
        width = self.width
        sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": 4, "num_attention_heads": 4}
        return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=True, **sizes))  # type: ignore[arg-type]


Paused = Callable[[float], None]  # a loop calls it after each step with the mean loss of all ranks


class Turns:
    """A loop on a thread, which goes on by one step when it is its turn."""

    def __init__(self, loop: Callable[[Job, Paused], None], job: Job) -> None:
        self._turn, self._over = threading.Semaphore(0), threading.Semaphore(0)
        self._error: BaseException | None = None
        self._loss = 0.0
        self._thread = threading.Thread(target=self._run, args=(loop, job), daemon=True)
        self._thread.start()

    def step(self) -> float:
        """Run one step, and return its loss."""
        self._turn.release()
        self._over.acquire()
        if self._error is not None:
            raise self._error
        return self._loss

    def end(self) -> None:
        """Let the loop return after its last step."""
        self._turn.release()
        self._thread.join()

    def _run(self, loop: Callable[[Job, Paused], None], job: Job) -> None:
        self._turn.acquire()
        try:
            loop(job, self._pause)
        except BaseException as error:
            self._error = error
            self._over.release()

    def _pause(self, loss: float) -> None:
        self._loss = loss
        self._over.release()
        self._turn.acquire()


def ours(job: Job, pause: Paused) -> None:
    """The loop of the pods."""
    mesh, run = Mesh.of("cpu"), Run("pvc://ours", "0000-bench")
    if dist.get_rank() == 0:
        run.take_over()
    dist.barrier()
    model = shard(job.model(), mesh, bf16=False, gradient_checkpointing=False)
    method = NextToken(job.dataset, 0)
    loop = Loop(job.training, method, BATCH // WORKERS, job.steps, torch.device("cpu"), mesh)
    optimizer = build_optimizer(model, job.training)
    loop.run(model, optimizer, run, START, lambda progress: pause(progress.loss))


def bare(job: Job, pause: Paused) -> None:
    """The shortest loop that does the same."""
    model = job.model()
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)
    for batch in job.batches:
        rows = batch[dist.get_rank() :: WORKERS]
        sequences = [torch.from_numpy(job.dataset.ids(row).astype(np.int64)) for row in rows]
        labels = [torch.from_numpy(job.dataset.labels(row).astype(np.int64)) for row in rows]
        ids = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True)
        targets = torch.nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=IGNORED)[:, 1:]
        logits = model(ids, use_cache=False).logits[:, :-1]
        total = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
        count = int(job.dataset.trained[batch].sum())
        (total * WORKERS / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = total.detach() / count
        dist.all_reduce(mean)
        pause(mean.item())


def trl(job: Job, pause: Paused) -> None:
    """TRL's trainer, as its users call it."""
    from accelerate import Accelerator, PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
    from datasets import Dataset as Rows
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Pause(TrainerCallback):
        """Ends a turn when the trainer has logged the loss of a step."""

        def on_log(self, _args: Any, _state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
            if logs and "loss" in logs:
                pause(float(logs["loss"]))

    words = {f"w{number}": number for number in range(VOCABULARY)}
    pad, end = "w0", "w1"
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(words, pad)), pad_token=pad, eos_token=end)
    dealt = [row for batch in job.batches for rank in range(WORKERS) for row in batch[rank::WORKERS]]
    rows = [
        {"input_ids": job.dataset.ids(row).tolist(), "completion_mask": (job.dataset.labels(row) != IGNORED).tolist()}
        for row in dealt
    ]
    config = SFTConfig(
        output_dir=str(job.folder / "trl"),
        max_steps=job.steps,
        per_device_train_batch_size=BATCH // WORKERS,
        train_sampling_strategy="sequential",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_length=None,
        completion_only_loss=True,
        bf16=False,
        activation_checkpointing=False,
        fsdp=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        ddp_backend="gloo",
        disable_tqdm=True,
    )
    # accelerate chooses FSDP on GPUs alone (not reported), though its FSDP2 needs none.
    assert config.device.type == "cpu"  # the first look at it resets accelerate's state
    plugin = FullyShardedDataParallelPlugin(**config.fsdp_plugin_args)
    Accelerator(cpu=True, fsdp_plugin=plugin).state.fsdp_plugin = plugin
    PartialState().distributed_type = DistributedType.FSDP
    trainer = SFTTrainer(
        model=job.model(),
        args=config,
        processing_class=tokenizer,
        train_dataset=Rows.from_list(rows),
        callbacks=[Pause()],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    sharded = next(trainer.model.parameters())
    assert isinstance(sharded, DTensor), "accelerate did not shard the model"


WAYS: dict[str, Callable[[Job, Paused], None]] = {"ours": ours, "bare": bare, "trl": trl}


def data(folder: Path) -> Dataset:
    """Rows with the length of support requests, of which the last third counts, like a completion.

    Some tokens are frequent, so that there is something to learn: else all losses stayed equal.
    """
    random = np.random.default_rng(0)
    lengths = random.integers(8, 40, size=ROWS)
    ids = [(2 + random.random(int(length)) ** 4 * (VOCABULARY - 2)).astype(int).tolist() for length in lengths]
    labels = [[IGNORED] * (2 * len(row) // 3) + row[2 * len(row) // 3 :] for row in ids]
    write_dataset(folder, ids, labels, [[len(row)] for row in ids])
    return Dataset(folder / FILE)


def measure(rank: int, folder: Path, width: int, rounds: int, steps: int) -> None:
    """As one of the workers."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(WORKERS)}
    os.environ |= {"LOCAL_WORLD_SIZE": str(WORKERS), "ACCELERATE_USE_CPU": "true"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=WORKERS)
    job = Job(folder, Dataset(folder / FILE), width, WARM_UP + rounds * steps)
    ways = {name: Turns(loop, job) for name, loop in WAYS.items()}
    spent = {name: torch.zeros(2, rounds, dtype=torch.float64) for name in ways}  # by the clock, and of CPUs
    for number in range(job.steps):
        losses = {}
        for name in rotated(list(ways), number):
            dist.barrier()
            began = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
            losses[name] = ways[name].step()
            dist.barrier()
            if number >= WARM_UP:
                ended = torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)
                spent[name][:, (number - WARM_UP) // steps] += ended - began
        check_equal(number, losses)
    for way in ways.values():
        way.end()
    for seconds in spent.values():
        dist.all_reduce(seconds[1])
    if rank == 0:
        report(spent, int(sum(job.dataset.lengths[rows].sum() for rows in job.batches[WARM_UP:])))
    dist.destroy_process_group()


def rotated(names: list[str], number: int) -> list[str]:
    """Every way is first, second and last in turn."""
    start = number % len(names)
    return names[start:] + names[:start]


def check_equal(number: int, losses: dict[str, float]) -> None:
    """Raise an error if the ways don't train the same."""
    if max(losses.values()) - min(losses.values()) > TOLERANCE * max(losses.values()):
        raise ValueError(f"step {number}: the losses differ: {losses}")


def report(spent: dict[str, torch.Tensor], tokens: int) -> None:
    """Print a line per way."""
    for name, (clock, cpu) in spent.items():
        line = (
            f"{name}: {tokens / float(clock.sum()):.0f} tokens/s, {float(cpu.sum()) / tokens * 1000:.2f} CPU ms/token"
        )
        if name != "ours":
            own_clock, own_cpu = spent["ours"]
            line += f"; ours is {shown(clock / own_clock)} times as fast, by CPU seconds {shown(cpu / own_cpu)}"
        print(line, flush=True)


def shown(ratios: torch.Tensor) -> str:
    """The median and its bounds."""
    low, high = interval(ratios.tolist())
    return f"{median(ratios.tolist()):.3f} ({low:.3f} to {high:.3f})"


def interval(values: list[float]) -> tuple[float, float]:
    """Bounds of the median at 95 %, from its order statistics; the extremes if there are fewer than six values."""
    count, place, below = len(values), 0, 0.0
    while below + comb(count, place) / 2**count <= 0.025:
        below += comb(count, place) / 2**count
        place += 1
    ordered, place = sorted(values), max(0, place - 1)
    return ordered[place], ordered[-1 - place]


def main() -> None:
    """Start the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="hidden size of the model")
    parser.add_argument("--rounds", type=int, default=15, help="rounds")
    parser.add_argument("--steps", type=int, default=10, help="steps of each way in a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ["DRIFTLOOP_VOLUMES"] = name
        data(Path(name))
        fork = get_context("fork")
        given = (Path(name), options.width, options.rounds, options.steps)
        workers = [fork.Process(target=measure, args=(rank, *given)) for rank in range(WORKERS)]
        for worker in workers:
            worker.start()
        wait([worker.sentinel for worker in workers])  # one that fails would be waited for by the other
        for worker in workers:
            worker.join(60)
            worker.kill()
        raise SystemExit(max(abs(worker.exitcode or 0) for worker in workers))


if __name__ == "__main__":
    main()

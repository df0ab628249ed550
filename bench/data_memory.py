"""The memory of the training rows: mapped from the node's disk, or read whole by each worker.

`PYTHONPATH=operator:trainer_image python bench/data_memory.py [--tokens N] [--length N] [--ranks N ...]`

Each rank is a process that opens the same rows and makes batches of all of them, in the order of training:
  whole:  each rank reads the Parquet file into its memory
  mapped: one process writes the rows as flat files, and each rank maps them (train/localdata.py)
Own memory: the most anonymous memory of a rank beyond what it had before, sampled every 20 ms. The kernel can't drop
it. Shared: pages of the flat files that are in memory at the end, once for all ranks; the kernel drops them when memory
is short. Opening: seconds until the slowest rank can train, with the flat files in the line of that name. Reading:
tokens per CPU second of a rank, with the padding and the copies into tensors.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import torch

from driftloop.contract.course import Course
from driftloop.contract.manifest import Manifest
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.flatrows import FlatRows
from driftloop_trainer.train.localdata import local_data
from driftloop_trainer.train.worker.batches import collate
from driftloop_trainer.train.worker.order import Order

MIB, BATCH, VOCABULARY = 1 << 20, 8, 50_000
Open = Callable[[], Dataset]


class Whole(Dataset):
    """All rows in the memory of this process."""

    def __init__(self, path: Path) -> None:
        table = pq.read_table(path, columns=["input_ids", "labels", "segments"]).combine_chunks()
        lists = {name: table.column(name).chunk(0) for name in table.column_names}
        ids, labels, segments = (column.values.to_numpy() for column in lists.values())
        offsets, _, segment_offsets = (column.offsets.to_numpy().astype(np.int64) for column in lists.values())
        lengths, trained = np.diff(offsets), np.add.reduceat(labels != IGNORED, offsets[:-1], dtype=np.int64)
        unlabelled = np.zeros(0, np.bool_)
        self._rows = FlatRows(ids, labels, segments, offsets, segment_offsets, lengths, trained, unlabelled)
        self.lengths, self.trained, self.good, self.packed = lengths, trained, unlabelled, False


class Sampled:
    """The most anonymous memory of this process within the block, beyond what it had before, in bytes."""

    def __enter__(self) -> "Sampled":
        self._before, self.most, self._ended = memory("Anonymous"), 0, threading.Event()
        self._thread = threading.Thread(target=self._sample)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.wait(0.02):
            self.most = max(self.most, memory("Anonymous") - self._before)


def memory(kind: str) -> int:
    """Bytes of this process, by the name in smaps_rollup of proc(5)."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{kind}:"))


def rows(tokens: int, length: int) -> Iterator[npt.NDArray[np.int32]]:
    """Rows of tokens by chance."""
    random = np.random.default_rng(0)
    return (random.integers(1, VOCABULARY, length, dtype=np.int32) for _ in range(tokens // length))


def prepared(folder: Path, tokens: int, length: int) -> str:
    """A prepared folder with the rows. Returns its digest."""
    folder.mkdir()
    lengths = ([length] for _ in range(tokens // length))
    write_dataset(folder, rows(tokens, length), rows(tokens, length), lengths)
    manifest = Manifest.of(folder)
    manifest.write(folder)
    return manifest.digest


def rank(opened: Open, barrier: Any, told: Any) -> None:
    """One worker: opens the rows, and reads all of them."""
    torch.set_num_threads(1)
    files = memory("Pss_File")
    barrier.wait()
    with Sampled() as sampled:
        began = time.monotonic()
        data = opened()
        opening = time.monotonic() - began
        order = Order(data.lengths, Course(len(data), BATCH, len(data)), seed=0)
        began_reading, read = time.thread_time(), 0  # without the thread that samples
        for step in range(len(data) // BATCH):
            read += collate(data, order.batch(step), 0).ids.numel()
        reading = time.thread_time() - began_reading
    barrier.wait()
    told.put((opening, sampled.most, memory("Pss_File") - files, read / reading))
    barrier.wait()


def measured(way: str, opened: Open, ranks: int) -> None:
    """Print the line of a way."""
    fork = get_context("fork")
    barrier, told = fork.Barrier(ranks), fork.Queue()
    processes = [fork.Process(target=rank, args=(opened, barrier, told)) for _ in range(ranks)]
    for process in processes:
        process.start()
    opening, own, shared, rates = zip(*(told.get(timeout=600) for _ in processes), strict=True)
    for process in processes:
        process.join()
    files = max(0, sum(shared)) // MIB
    print(
        f"{way:10} {ranks:5} {max(opening):9.1f} {max(own) // MIB:14,} {files:10,} {(sum(own) // MIB) + files:10,}"
        f" {median(rates) / 1e6:9.1f}",
        flush=True,
    )


def flattened(uri: str, digest: str) -> None:
    """Print the line of writing the flat files, in a process of its own as in a pod."""
    told = get_context("fork").Queue()

    def convert() -> None:
        with Sampled() as sampled:
            began = time.monotonic()
            local_data(uri, digest)
            told.put((time.monotonic() - began, sampled.most))

    process = get_context("fork").Process(target=convert)
    process.start()
    seconds, most = told.get()
    process.join()
    print(f"{'flat files':10} {1:5} {seconds:9.1f} {most // MIB:14,}", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=1 << 27, help="in all rows; each takes 8 bytes")
    parser.add_argument("--length", type=int, default=2048, help="tokens per row")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 4])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.environ |= {"DRIFTLOOP_VOLUMES": name, "DRIFTLOOP_DISK": name}
        folder, uri = Path(name, "prepared"), "pvc://prepared"
        digest = prepared(folder, arguments.tokens, arguments.length)
        stored = (folder / FILE).stat().st_size // MIB
        print(f"{arguments.tokens:,} tokens in rows of {arguments.length}: {stored:,} MiB as Parquet")
        print("way        ranks opening/s own/rank MiB shared MiB    all MiB M tokens/s")
        flattened(uri, digest)
        for ranks in arguments.ranks:
            measured("whole", lambda: Whole(folder / FILE), ranks)
            measured("mapped", lambda: local_data(uri, digest).dataset(FILE), ranks)


if __name__ == "__main__":
    main()

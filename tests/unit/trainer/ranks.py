"""Starts the ranks of a test as forks of its process, because the imports of torch take longer than most cases."""

import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path


def run_ranks(run_rank: Callable[[Path, int, int], None], folder: Path, world_size: int) -> None:
    """Call `run_rank(folder, rank, world_size)` in a process per rank. Ends this process if one of them has failed."""
    fork = get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(folder, rank, world_size), daemon=True) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()  # an exchange without its peer ends after its timeout
    codes = [rank.exitcode for rank in ranks]
    if any(codes):
        sys.exit(f"exit codes on {world_size} ranks: {codes}")

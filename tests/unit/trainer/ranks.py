"""Starts the ranks of a test: a script in a process of its own, and in it the ranks as its forks.

They are forks because the imports of torch take longer than most cases.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

# How long a rank waits for its peers. A rank that ends is noticed at once, so this only bounds ranks that hang. On a
# machine with much other work one rank can compile a layer more than a minute before its peer.
EXCHANGE_TIMEOUT = timedelta(seconds=400)


def environment(folder: Path) -> dict[str, str]:
    """The environment of a rank. Its volumes and its disk are folders in `folder`."""
    (folder / "disk").mkdir(exist_ok=True)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    folders = {"DRIFTLOOP_VOLUMES": str(folder), "DRIFTLOOP_DISK": str(folder / "disk")}
    return os.environ | folders | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def run_script(name: str, folder: Path, timeout: float = 500) -> None:
    """Run the script `name`, beside this file, on `folder`. The log of all ranks is in ranks.log."""
    command, log = [sys.executable, str(Path(__file__).parent / name), str(folder)], folder / "ranks.log"
    with log.open("w") as output:
        script = subprocess.Popen(command, env=environment(folder), stderr=output, start_new_session=True)
        try:
            code = script.wait(timeout)
        finally:
            end_group(script)
    assert code == 0, log.read_text()


def end_group(script: "subprocess.Popen[bytes]") -> None:
    """End a script that started a session, with its ranks: those of one that is killed alone would run on."""
    with suppress(ProcessLookupError):
        os.killpg(script.pid, signal.SIGKILL)
    script.wait()


def run_ranks(run_rank: Callable[[Path, int, int], None], folder: Path, world_size: int) -> None:
    """Call `run_rank(folder, rank, world_size)` in a process per rank. Ends this process if one of them has failed."""
    fork = get_context("fork")
    ranks = [fork.Process(target=run_rank, args=(folder, rank, world_size), daemon=True) for rank in range(world_size)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()  # the others end within EXCHANGE_TIMEOUT of one that hangs
    codes = [rank.exitcode for rank in ranks]
    if any(codes):
        sys.exit(f"exit codes on {world_size} ranks: {codes}")

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.train.cluster.driver import _EXCHANGE_TIMEOUT
from driftloop_trainer.train.worker.watchdog import Patience
from unit.trainer.ranks import environment
from unit.trainer.test_exactness import dataset

pytestmark = pytest.mark.timeout(600)  # two processes that import torch, also beside the cluster's pods

RANK = """
import sys, time
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from driftloop.api.finetunejob import Validation
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.train.run import START, Run
from driftloop_trainer.train.worker import watchdog
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.validate import Validator
from driftloop_trainer.train.worker.watchdog import Patience
from unit.trainer.sharded_run import tiny_model, training

def read_rows_of_a_stuck_file_system():
    time.sleep(60)

folder, rank, where = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]

def report(progress):
    if where == "step" and progress.step == 3 and rank == 1:
        read_rows_of_a_stuck_file_system()

class SetAside(NextToken):
    validations = 0

    def batch(self, indices):
        if where == "validation" and self.validations == 2 and rank == 1:
            read_rows_of_a_stuck_file_system()
        return super().batch(indices)

    def count(self, indices):
        SetAside.validations += 1
        return super().count(indices)

watchdog._POLL, watchdog._PAUSE = 0.1, 1.0
dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
mesh, spec = Mesh.of("cpu"), training()
model = shard(tiny_model(), mesh, bf16=False, gradient_checkpointing=False)
patience = Patience(first=120, least=3, factor=3)
cpu, rows = torch.device("cpu"), Dataset(folder / FILE)
validator = Validator(Validation.model_validate({"everySteps": 1}), SetAside(rows, 0), 4, cpu, mesh)
loop = Loop(spec, NextToken(rows, 0), 4, 5, cpu, mesh, patience=patience, validator=validator)
loop.run(model, build_optimizer(model, spec), Run("pvc://run", "0000-test"), START, report)
"""


SLEEPING = """
import logging, sys, time
from driftloop_trainer.train.worker import watchdog
from driftloop_trainer.train.worker.watchdog import Patience, Watchdog

logging.basicConfig()
watchdog._POLL = watchdog._PAUSE = 0.1
Watchdog(Patience(first=1)).begin(7, sys.argv[1])
time.sleep(60)
"""
FROZEN = """
import ctypes, time
from driftloop_trainer.train.worker import watchdog
from driftloop_trainer.train.worker.watchdog import Patience, Watchdog

def keep_the_lock_of_python():
    ctypes.PyDLL(None).sleep(60)

watchdog._POLL = 0.1
Watchdog(Patience(frozen=3)).begin(1)
time.sleep(1)
keep_the_lock_of_python()
"""


def ended(folder: Path, program: str, *arguments: tuple[str, ...]) -> list[tuple[int, str]]:
    """Run the program once for each of `arguments`, at the same time. Returns the exit codes and logs."""
    command, env = [sys.executable, "-c", program], environment(folder)
    processes = [
        subprocess.Popen([*command, *given], stderr=subprocess.PIPE, text=True, env=env) for given in arguments
    ]
    try:
        logs = [process.communicate(timeout=280)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, log) for process, log in zip(processes, logs, strict=True)]


@pytest.mark.parametrize(("slow", "waits"), [("step", "in largest"), ("validation", "of the validation after step 3")])
def test_what_is_far_slower_than_others_of_its_kind_ends_all_ranks_with_what_each_was_doing(
    tmp_path: Path, slow: str, waits: str
) -> None:
    dataset(tmp_path)
    ranks = ended(tmp_path, RANK, (str(tmp_path), "0", slow), (str(tmp_path), "1", slow))
    for (code, log), where in zip(ranks, (waits, "in read_rows_of_a_stuck_file_system"), strict=True):
        assert code == 75
        assert re.search(r"step 3 has taken longer than \d+ s, so this worker ends", log)
        assert where in log


@pytest.mark.parametrize(("kind", "name"), [("step", "step 7"), ("validation", "validation after step 7")])
def test_the_first_of_each_kind_has_a_limit_too(tmp_path: Path, kind: str, name: str) -> None:
    ((code, log),) = ended(tmp_path, SLEEPING, (kind,))
    assert code == 75
    assert f"{name} has taken longer than 1 s" in log


def test_a_worker_that_can_run_no_python_any_more_ends_too(tmp_path: Path) -> None:
    ((code, log),) = ended(tmp_path, FROZEN, ())
    assert code == 1
    assert "in keep_the_lock_of_python" in log


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=100))
def test_a_step_may_always_take_as_long_as_most_before_it(recent: list[float]) -> None:
    patience = Patience()
    within = [seconds for seconds in recent if seconds <= patience.limit(recent)]
    assert len(within) >= len(recent) / 2


def test_the_limit_follows_the_median_but_is_never_short() -> None:
    patience = Patience(first=1200, least=600, factor=20)
    assert [patience.limit(recent) for recent in ([], [0.1, 0.1, 400.0], [50.0])] == [1200, 600, 1000]


@pytest.mark.parametrize("limit", [Patience().first, Patience().least])
def test_an_exchange_does_not_end_a_rank_before_its_watchdog_does(limit: float) -> None:
    assert limit < _EXCHANGE_TIMEOUT

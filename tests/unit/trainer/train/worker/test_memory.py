import subprocess
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from driftloop_trainer.train.worker.memory import largest, peak_memory

CPU = torch.device("cpu")
PEAK = """
import torch
from driftloop_trainer.train.worker.memory import peak_memory
device = torch.device("cpu")
before = peak_memory(device)["resident"]
torch.ones(64 << 18)  # 64 MiB, freed at once
print(peak_memory(device)["resident"] - before)
"""


def test_memory_that_was_used_once_is_in_the_peak_and_that_of_other_processes_is_not() -> None:
    larger = torch.ones(256 << 18)  # what this process uses must not count
    path = {"PYTHONPATH": ":".join(entry for entry in sys.path if entry), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", PEAK], env=path, capture_output=True, text=True, check=True)
    assert 60 << 20 <= int(ended.stdout) <= 80 << 20
    assert set(peak_memory(CPU)) == {"resident"}
    assert peak_memory(CPU)["resident"] > larger.nbytes


def test_the_largest_keeps_what_no_float_could_hold(tmp_path: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        assert largest([True, (1 << 53) + 1], CPU) == [1, (1 << 53) + 1]
    finally:
        dist.destroy_process_group()

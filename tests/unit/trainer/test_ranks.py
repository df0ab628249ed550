"""Scripts with ranks end with all of them."""

import subprocess
from pathlib import Path

import pytest

from unit.trainer import ranks

SCRIPT = """
import sys, time
from multiprocessing import get_context
from pathlib import Path

def rank(folder, number):
    (folder / str(number)).write_text(str(__import__("os").getpid()))
    time.sleep(600)

forks = [get_context("fork").Process(target=rank, args=(Path(sys.argv[1]), number)) for number in range(2)]
[fork.start() for fork in forks]
[fork.join() for fork in forks]
"""


def test_no_rank_runs_on_after_the_time_limit(tmp_path: Path) -> None:
    script = tmp_path / "hangs.py"
    script.write_text(SCRIPT)
    with pytest.raises(subprocess.TimeoutExpired):
        ranks.run_script(str(script), tmp_path, timeout=10)
    for number in range(2):
        process = int((tmp_path / str(number)).read_text())
        stat = Path(f"/proc/{process}/stat")
        assert not stat.exists() or stat.read_text().split()[2] == "Z"

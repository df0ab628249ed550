import subprocess
import sys

import pytest

SLOW = {"ray", "torch", "transformers"}
NOTHING: set[str] = set()


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("prepare.__main__", NOTHING),
        ("train.__main__", NOTHING),
        ("train.assignment", NOTHING),
        ("train.run", NOTHING),
        ("train.cluster.board", {"ray"}),
        ("train.cluster.driver", {"ray"}),  # with it what Ray Train's controller imports
    ],
)
def test_what_needs_no_torch_does_not_wait_for_it(module: str, allowed: set[str]) -> None:
    code = f"import sys, driftloop_trainer.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not (SLOW - allowed) & set(loaded)

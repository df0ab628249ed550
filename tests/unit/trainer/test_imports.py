import subprocess
import sys

import pytest

SLOW = {"ray", "torch", "transformers"}


@pytest.mark.parametrize(
    "module", ["train.__main__", "train.board", "train.assignment", "train.run", "prepare.__main__"]
)
def test_what_needs_no_torch_does_not_wait_for_it(module: str) -> None:
    allowed = {"ray"} if module == "train.board" else set()
    code = f"import sys, driftloop_trainer.{module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not (SLOW - allowed) & set(loaded)

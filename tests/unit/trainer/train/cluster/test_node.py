import subprocess
import sys
import time

import pytest

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.cluster.node import await_head, wait_for_head


def test_a_head_that_never_comes_ends_the_wait() -> None:
    with pytest.raises(StageFailure, match="NodesMissing") as failure:
        wait_for_head("127.0.0.1", time.monotonic() + 0.1)
    assert failure.value.exit_code == 75


def test_a_head_that_does_not_start_may_be_tried_again() -> None:
    with pytest.raises(StageFailure, match=r"RayFailed.*exit code 3") as failure:
        await_head(subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))
    assert failure.value.exit_code == 75

import subprocess
import sys
import time

from driftloop_trainer.train.cluster.processtime import process_start


def test_a_process_knows_when_it_started() -> None:
    begun = time.time()
    code = "import time; time.sleep(1); from driftloop_trainer.train.cluster.processtime import process_start as p"
    told = subprocess.run([sys.executable, "-c", f"{code}; print(p())"], capture_output=True, text=True, check=True)
    assert begun - 0.1 <= float(told.stdout) <= time.time() - 0.9


def test_it_is_the_same_at_any_time() -> None:
    first = process_start()
    time.sleep(0.2)
    assert abs(process_start() - first) < 0.05

import time
import urllib.request
from datetime import UTC, datetime

from driftloop.controller.kinds.finetunejob.progress import read
from driftloop.controller.runtime.readings.scrape import parse
from driftloop_trainer.train.cluster.board import Board
from driftloop_trainer.train.progress import Progress
from testcluster.controlplane import free_port


def test_the_operator_reads_what_the_board_shows() -> None:
    port = free_port()
    board = Board(port, total=90, born=time.time() - 20)
    peak, losses = {"allocated": 3 << 30, "reserved": 4 << 30}, {"last": 1.5, "best": 1.25}
    board.show(Progress(30, 90, 0.25, 1234.0, 65.0, validation=losses, best_step=20, peak_memory=peak))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = read(parse(answer.read().decode()), datetime.now(UTC))
    assert found is not None
    assert (found.step, found.total_steps, found.loss, found.eta) == (30, 90, "0.25", "1m05s")
    assert found.peak_memory_bytes_per_worker == {"allocated": 3 << 30, "reserved": 4 << 30}
    assert (found.validation_loss, found.best_validation_loss, found.best_step) == ("1.5", "1.25", 20)
    assert found.model_flops_utilisation is None
    board.show(Progress(31, 90, 0.25, 1234.0, 65.0, mfu=0.4125))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = read(parse(answer.read().decode()), datetime.now(UTC))
    assert found is not None
    assert found.model_flops_utilisation == "0.4125"


def test_the_time_until_the_first_step_stays_what_it_was() -> None:
    port = free_port()
    board = Board(port, total=90, born=time.time() - 20)
    board.show(Progress(1, 90, 0.25, 1234.0, 65.0))
    time.sleep(1.2)
    board.show(Progress(2, 90, 0.25, 1234.0, 65.0))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = read(parse(answer.read().decode()), datetime.now(UTC))
    assert found is not None
    assert found.start_seconds == 20

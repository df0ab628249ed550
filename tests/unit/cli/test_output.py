"""Progress on a terminal and in a log."""

import io

from driftloop.cli.output import REPEAT_SECONDS, Progress
from driftloop.cli.states import Going, Stuck


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_a_line_per_change_and_one_from_time_to_time() -> None:
    now, log = [0.0], io.StringIO()
    progress = Progress("job tune", log, lambda: now[0])
    for moment, state in ((0, Going("a")), (1, Going("a")), (2, Stuck("b")), (3 + REPEAT_SECONDS, Stuck("b"))):
        now[0] = moment
        progress.show(state)
    progress.end()
    assert log.getvalue() == "job tune: a\njob tune: stalled: b\njob tune: stalled: b\n"


def test_a_terminal_gets_one_line_that_is_overwritten() -> None:
    terminal = Terminal()
    progress = Progress("job tune", terminal, lambda: 0.0)
    progress.show(Going("Training: step 1 of 2", 50, "3m"))
    progress.show(Going("x" * 200))
    progress.end()
    first, second = terminal.getvalue().split("\r\033[K")[1:]
    assert first == "job tune: Training: step 1 of 2 [##########..........] 50 %, 3m left"
    assert second.endswith("x\n")
    assert len(second) < 120

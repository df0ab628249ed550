"""The table on a terminal."""

from driftloop.cli.gating.table import table
from unit.cli.gating.reports import BROKEN, FAILED


def test_each_gate_has_a_line_with_its_message_below_and_the_verdict_is_last() -> None:
    assert table(FAILED) == (
        "gate    kind       verdict       value   baseline  items\n"
        "digest  digest     Pass\n"
        "    the served model is the version's artefact\n"
        "api     api        Pass\n"
        "    7 checks passed\n"
        "old     retention  Fail          0.5000  1.0000    40\n"
        "    a loss\n"
        "gain    target     Inconclusive\n"
        "    needs n >= 90\n"
        "Failed: old: Fail: a loss"
    )


def test_without_gates_the_problem_is_shown() -> None:
    assert table(BROKEN) == "Unknown: candidate: the engine: NoMemory: give it more"

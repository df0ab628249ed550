"""The verdict and the exit code of a report: only gates that all passed are good."""

import pytest

from driftloop.cli.exits import Exit
from driftloop.cli.gating.report import Report
from unit.cli.gating.reports import BROKEN, FAILED, PASSED, UNKNOWN, UNPROVEN


@pytest.mark.parametrize(
    ("report", "verdict", "code"),
    [
        (PASSED, "Passed", Exit.DONE),
        (FAILED, "Failed", Exit.GATE_FAILED),
        (UNKNOWN, "Unknown", Exit.FAILED),
        (UNPROVEN, "Unknown", Exit.FAILED),
        (BROKEN, "Unknown", Exit.FAILED),
    ],
)
def test_a_verdict_that_is_not_known_is_neither_a_pass_nor_a_failed_gate(
    report: Report, verdict: str, code: Exit
) -> None:
    assert (report.verdict, report.exit) == (verdict, code)


def test_programs_get_the_models_and_all_fields_of_the_gates() -> None:
    document = FAILED.document()
    assert (document["verdict"], document["exitCode"], document["engine"]) == ("Failed", 6, "driftloop")
    assert document["model"] == {"folder": "models/new", "digest": f"sha256:{'a' * 64}"}
    assert document["gates"][2] == {
        "name": "old",
        "kind": "retention",
        "verdict": "Fail",
        "message": "a loss",
        "value": "0.5000",
        "baseline": "1.0000",
        "items": 40,
    }
    assert BROKEN.document()["gates"] == []
    assert BROKEN.document()["baseline"] is None

"""The whole loop in its short form, and the controls: what `make demo CONTROLS=1` runs, judged by its report."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from testcluster.paths import REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of one run; what the run printed goes to the test's output."""
    path: Path = tmp_path_factory.mktemp("loop") / "report.json"
    command = [sys.executable, "-m", "demo", "--short", "--controls", "--namespace", "loop-test", "--report", str(path)]
    environment = os.environ | {"PYTHONPATH": "examples:tests:operator"}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, check=False, timeout=2300)
    assert done.returncode == 0, "the demo failed: its output is above"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_no_request_failed_and_no_correction_was_refused(report: dict[str, Any]) -> None:
    requests = report["requests"]
    assert requests["failed"] == 0, requests["errors"]
    assert requests["feedbackFailed"] == 0, requests["errors"]
    assert requests["sent"] > 1000


def test_the_alarm_came_with_the_shift_and_neither_before_nor_after(report: dict[str, Any]) -> None:
    alert = report["alert"]
    assert alert["alarmsBeforeShift"] == 0
    assert alert["alarmsAfterPromotion"] == 0
    assert alert["requestsBeforeAlarm"] > 0


def test_a_webhook_is_decided_on_at_once(report: dict[str, Any]) -> None:
    assert report["alert"]["webhookToDecisionSeconds"] <= 5


def test_the_shifted_domain_was_learned_and_the_old_one_kept(report: dict[str, Any]) -> None:
    before, after = report["versions"][-2:]
    assert after["accuracyShifted"] >= before["accuracyShifted"] + 0.3
    assert after["accuracyInDomain"] >= before["accuracyInDomain"] - 0.03


def test_training_was_sharded_over_two_nodes(report: dict[str, Any]) -> None:
    assert report["train"]["nodes"] == 2
    assert report["train"]["worldSize"] == 2


def test_the_pools_do_not_touch(report: dict[str, Any]) -> None:
    assert set(report["pools"]["overlaps"].values()) == {0}
    assert all(report["pools"]["rows"].values())


def test_the_controls_are_refused_by_the_retention_gate(report: dict[str, Any]) -> None:
    assert len(report["controls"]) == 2
    for control in report["controls"]:
        assert control["phase"] == "Rejected", control
        assert "retention" in control["failedGates"], control


def test_the_lineage_tells_what_led_to_the_second_version(report: dict[str, Any]) -> None:
    second = report["versions"][-1]["name"]
    line = next(line for line in report["lineage"] if line.startswith(second))
    assert "Drift" in line

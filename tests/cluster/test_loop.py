"""The whole loop in its short form, and the controls: what `make demo CONTROLS=1` runs, judged by its report.

Meanwhile the operator is killed once at every stage, and none of the promises may be the weaker for it.
"""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.lab import kill_operator
from demo.kube import Kube, KubectlError
from demo.reads import Obj, ReadError
from testcluster.binaries import binary
from testcluster.paths import KUBECONFIG, REPOSITORY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

NAMESPACE = "loop-test"
STAGES = ("Preparing", "Training", "Evaluating", "Deploying", "Waiting", "Canary")


@dataclass
class Killer:
    """Kills the operator when it first sees a stage."""

    kube: Kube
    seen: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stop.wait(2):
            fresh = [stage for stage in self._stages() if stage in STAGES and stage not in self.seen]
            if fresh and self._killed():
                self.seen.append(fresh[0])

    def _stages(self) -> Iterator[str]:
        for kind in ("finetunejobs", "modelversions", "inferenceservices"):
            for found in self._list(kind):
                status = found.get("status", {})
                yield status.get("phase", "")
                yield (status.get("retraining") or {}).get("state", "")

    def _list(self, kind: str) -> list[Obj]:
        try:
            return self.kube.list(kind, NAMESPACE)
        except ReadError:  # before the CRDs are installed
            return []

    def _killed(self) -> bool:
        try:
            kill_operator(self.kube)
        except (AssertionError, KubectlError, ReadError):  # the last one killed isn't replaced yet
            return False
        return True


@dataclass(frozen=True)
class Run:
    """What is left of one run."""

    report: dict[str, Any]
    kube: Kube
    killed_at: list[str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One run; what it printed goes to the test's output."""
    path: Path = tmp_path_factory.mktemp("loop") / "report.json"
    command = [sys.executable, "-m", "demo", "--short", "--controls", "--namespace", NAMESPACE, "--report", str(path)]
    environment = os.environ | {"PYTHONPATH": "examples:tests:operator"}
    kube = Kube(binary("kubectl"), KUBECONFIG)
    killer = Killer(kube)
    thread = threading.Thread(target=killer.run)
    thread.start()
    try:
        done = subprocess.run(command, env=environment, cwd=REPOSITORY, check=False, timeout=2300)
    finally:
        killer.stop.set()
        thread.join(timeout=60)
    assert done.returncode == 0, "the demo failed: its output is above"
    return Run(json.loads(path.read_text()), kube, killer.seen)


@pytest.fixture(scope="module")
def report(run: Run) -> dict[str, Any]:
    return run.report


def test_the_operator_was_killed_at_every_stage_and_nothing_was_started_twice(run: Run) -> None:
    assert sorted(run.killed_at) == sorted(STAGES)
    labels = [job["metadata"]["labels"] for job in run.kube.list("jobs", NAMESPACE)]
    of = Counter(
        (each["driftloop.dev/stage"], each.get("driftloop.dev/version") or each.get("driftloop.dev/job"))
        for each in labels
    )
    assert of
    assert set(of.values()) == {1}, of
    retrained = [job for job in run.kube.list("finetunejobs", NAMESPACE) if job["metadata"].get("ownerReferences")]
    assert len(retrained) == 1


def test_no_request_failed_and_no_correction_was_refused(report: dict[str, Any]) -> None:
    requests = report["requests"]
    assert requests["failed"] == 0, requests["errors"]
    assert requests["refused"] == 0, requests
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

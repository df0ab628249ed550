"""Checks the report of the whole loop in its short form with the controls. looprun.py runs it."""

import json
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.looprun import NAMESPACE, STAGES, Ended, LoopRun
from demo.install import MONITORING
from demo.loop import SERVICE

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

DASHBOARDS = Path(__file__).parents[2] / "charts/driftloop/files/dashboards"
# Panels of what the loop has not: a shadow, API keys, answers of 16 tokens, validation, preferences, elastic nodes,
# topics, scale to zero.
WITHOUT_DATA = {
    "Shadow: who was worse",
    "Shadow: copies without a pair",
    "Requests by client",
    "Output tokens by client",
    "Held at the door",
    "Door: requests by code",
    "Per output token",
    "Loss on rows that are set aside",
    "Reward",
    "Nodes",
    "Model FLOPs utilisation",  # of GPUs
    "During an alarm: share of the requests about topics that grew",
    "Failures",  # of the operator: none, unless a kill hit a request
}


@pytest.fixture(scope="module")
def run(loop: LoopRun) -> Ended:
    """The run after its end."""
    return loop.end()


@pytest.fixture(scope="module")
def report(run: Ended) -> dict[str, Any]:
    return run.report


def test_the_operator_was_killed_at_every_stage_and_nothing_was_started_twice(run: Ended) -> None:
    assert sorted(run.killed_at) == sorted(STAGES)
    labels = [job["metadata"]["labels"] for job in run.kube.list("jobs", NAMESPACE)]
    stages = Counter(
        (
            job_labels["driftloop.dev/stage"],
            job_labels.get("driftloop.dev/arm"),
            job_labels.get("driftloop.dev/version") or job_labels.get("driftloop.dev/job"),
        )
        for job_labels in labels
    )
    assert stages
    assert set(stages.values()) == {1}, stages
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


def test_the_report_names_the_cluster_that_it_is_about(report: dict[str, Any]) -> None:
    assert len(report["cluster"]["nodes"]) == 2
    assert all(report["cluster"]["versions"].values())
    assert report["cluster"]["versions"]["kubernetes"].startswith("v1.")


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


def panels() -> Iterator[tuple[str, str]]:
    """The title and each query of the chart's dashboards, about the loop."""
    chosen = {"namespace": NAMESPACE, "service": SERVICE, "pod": ".*", "__rate_interval": "1m", "__range": "1h"}
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for query in (target["expr"] for target in panel.get("targets", [])):
                for name, value in chosen.items():
                    query = query.replace(f"${name}", value)
                yield panel["title"], query


def test_the_dashboards_show_the_loop(run: Ended) -> None:
    now = time.time()

    def has_numbers(query: str) -> bool:
        asked = urllib.parse.urlencode({"query": query, "start": now - 2400, "end": now, "step": 15})
        proxied = f"/api/v1/namespaces/{MONITORING}/services/prometheus:9090/proxy/api/v1/query_range?{asked}"
        found = json.loads(run.kube.run("get", "--raw", proxied))["data"]["result"]
        return any(value != "NaN" for series in found for _, value in series["values"])

    empty = {title for title, query in panels() if not has_numbers(query)}
    assert empty <= WITHOUT_DATA

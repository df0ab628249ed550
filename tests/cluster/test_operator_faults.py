"""Wiped statuses: nothing is started twice and nothing is lost. test_loop.py kills the operator."""

import pytest

from cluster.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


def test_wiped_statuses_come_back_as_they_were(lab: Lab, trained: str) -> None:
    version = lab.get("finetunejob", trained)["status"]["version"]
    verdict = lab.get("modelversion", version)["status"]["gates"]
    lab.wipe_status("finetunejob", trained)
    lab.wipe_status("modelversion", version)
    assert lab.phase(trained, "Succeeded")["status"]["version"] == version
    assert lab.judged(version)["status"]["gates"] == verdict
    for stage, jobs in (("train", f"driftloop.dev/job={trained}"), ("evaluate", f"driftloop.dev/version={version}")):
        assert len(lab.list("jobs", f"{jobs},driftloop.dev/stage={stage}")) == 1

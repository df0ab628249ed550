"""Statuses wiped, names used again: nothing is started twice and nothing is lost. test_loop.py kills the operator."""

import pytest

from cluster.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_wiped_statuses_come_back_as_they_were(lab: Lab, trained: str) -> None:
    version = lab.get("finetunejob", trained)["status"]["version"]
    verdict = lab.get("modelversion", version)["status"]["gates"]
    lab.wipe_status("finetunejob", trained)
    lab.wipe_status("modelversion", version)
    assert lab.phase(trained, "Succeeded", seconds=120)["status"]["version"] == version
    assert lab.judged(version)["status"]["gates"] == verdict
    for stage, jobs in (("train", f"driftloop.dev/job={trained}"), ("evaluate", f"driftloop.dev/version={version}")):
        assert len(lab.list("jobs", f"{jobs},driftloop.dev/stage={stage}")) == 1


def test_a_job_created_again_under_its_name_gets_a_version_of_its_own(lab: Lab, trained: str) -> None:
    first = lab.get("finetunejob", trained)["status"]["version"]
    lab.kube.run("delete", "finetunejob", trained, "-n", lab.namespace)
    lab.pretrain(trained, training={"method": "pretrain", "maxSteps": 2})
    second = lab.phase(trained, "Succeeded", seconds=400)["status"]["version"]
    lab.judged(second)
    assert first != second
    assert {first, second} <= {version["metadata"]["name"] for version in lab.list("modelversions")}

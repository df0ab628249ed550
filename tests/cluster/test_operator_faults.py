"""Statuses wiped, names used again: nothing is started twice and nothing is lost. test_loop.py kills the operator."""

import pytest

from cluster.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def done(lab: Lab) -> str:
    """A job that succeeded, and whose version is approved."""
    name = "done"
    lab.pretrain(name)
    version = lab.phase(name, "Succeeded", seconds=400)["status"]["version"]
    lab.judged(version)
    return name


def test_wiped_statuses_come_back_as_they_were(lab: Lab, done: str) -> None:
    version = lab.get("finetunejob", done)["status"]["version"]
    verdict = lab.get("modelversion", version)["status"]["gates"]
    lab.wipe_status("finetunejob", done)
    lab.wipe_status("modelversion", version)
    assert lab.phase(done, "Succeeded", seconds=120)["status"]["version"] == version
    assert lab.judged(version)["status"]["gates"] == verdict
    for stage, jobs in (("train", f"driftloop.dev/job={done}"), ("evaluate", f"driftloop.dev/version={version}")):
        assert len(lab.list("jobs", f"{jobs},driftloop.dev/stage={stage}")) == 1


def test_a_job_created_again_under_its_name_gets_a_version_of_its_own(lab: Lab, done: str) -> None:
    first = lab.get("finetunejob", done)["status"]["version"]
    lab.kube.run("delete", "finetunejob", done, "-n", lab.namespace)
    lab.pretrain(done)
    second = lab.phase(done, "Succeeded", seconds=400)["status"]["version"]
    assert first != second
    assert {first, second} <= {version["metadata"]["name"] for version in lab.list("modelversions")}

"""The operator killed, statuses wiped, names used again: nothing is started twice and nothing is lost."""

import time

import pytest

from cluster.lab import Lab

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_an_operator_killed_again_and_again_starts_nothing_twice(lab: Lab) -> None:
    name = "killed-operator"
    lab.pretrain(name)
    end = time.monotonic() + 480
    kills = 0
    while lab.get("finetunejob", name).get("status", {}).get("phase") != "Succeeded":
        assert time.monotonic() < end, lab.story(name)
        if kills < 6:
            lab.kill_operator()
            kills += 1
        time.sleep(12)
    versions = [v for v in lab.list("modelversions") if v["spec"]["lineage"]["job"] == name]
    jobs = sorted(job["metadata"]["name"] for job in lab.list("jobs", f"driftloop.dev/job={name}"))
    assert len(versions) == 1
    assert len([job for job in jobs if "-prepare" in job]) == 1, jobs
    assert len([job for job in jobs if "-train" in job]) == 1, jobs


def test_a_job_created_again_under_its_name_gets_a_version_of_its_own(lab: Lab) -> None:
    name = "again"
    lab.pretrain(name)
    first = lab.phase(name, "Succeeded", seconds=400)["status"]["version"]
    lab.kube.run("delete", "finetunejob", name, "-n", lab.namespace)
    lab.pretrain(name)
    second = lab.phase(name, "Succeeded", seconds=400)["status"]["version"]
    assert first != second
    assert {first, second} <= {version["metadata"]["name"] for version in lab.list("modelversions")}


def test_a_wiped_status_comes_back_as_it_was(lab: Lab) -> None:
    name = "wiped"
    lab.pretrain(name)
    before = lab.phase(name, "Succeeded", seconds=400)["status"]
    lab.wipe_status("finetunejob", name)
    after = lab.phase(name, "Succeeded", seconds=120)["status"]
    assert after["version"] == before["version"]
    assert len(lab.list("jobs", f"driftloop.dev/job={name},driftloop.dev/stage=train")) == 1

"""Whose object it is that has the name."""

from typing import Any

from driftloop.controller.runtime.kube.ownership import describe, same_origin


def obj(kind: str = "Job", owner: str | None = None, job_uid: str | None = None, **labels: str) -> Any:
    owners = [{"uid": owner, "controller": True, "kind": "FineTuneJob", "name": "parent"}] if owner else []
    metadata = {"name": "x", "ownerReferences": owners, "labels": {f"driftloop.dev/{k}": v for k, v in labels.items()}}
    return {"kind": kind, "metadata": metadata, "spec": {"lineage": {"jobUid": job_uid}}}


def test_with_a_controller_its_uid_decides() -> None:
    assert same_origin(obj(owner="a"), obj(owner="a"))
    assert not same_origin(obj(owner="a"), obj(owner="b"))
    assert not same_origin(obj(owner="a"), obj())


def test_without_one_an_owned_object_is_somebody_elses() -> None:
    assert not same_origin(obj(), obj(owner="b"))


def test_a_version_is_the_same_when_it_came_of_the_same_job() -> None:
    wanted = obj("ModelVersion", job_uid="1", family="f", job="j")
    assert same_origin(wanted, obj("ModelVersion", job_uid="1", family="f", job="j"))
    assert same_origin(wanted, obj("ModelVersion", job_uid="1", family="f", job="j", **{"in-use": "true"}))
    assert not same_origin(wanted, obj("ModelVersion", job_uid="2", family="f", job="j"))


def test_a_services_job_is_told_by_our_labels() -> None:
    assert same_origin(obj("FineTuneJob", service="s"), obj("FineTuneJob", service="s"))
    assert not same_origin(obj("FineTuneJob", service="s"), obj("FineTuneJob", service="t"))


def test_it_is_told_whose_the_name_is() -> None:
    assert describe(obj(owner="a")) == "Job x exists already and is controlled by FineTuneJob parent"
    assert describe(obj()).endswith("exists already and has no controller")

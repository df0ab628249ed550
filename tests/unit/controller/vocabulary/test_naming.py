"""Children are named after their parent and its UID, and told apart by it."""

import re

from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.pods import jobs
from driftloop.controller.vocabulary.naming import (
    child_name,
    controlled_by,
    is_stage_pod,
    owner_reference,
    version_name,
)
from driftloop.controller.vocabulary.plan import Obj
from unit.controller.stages import job

LABEL = re.compile(r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")
names = st.from_regex(r"\A[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?\Z")
uids = st.uuids().map(str)


def parent(name: str, uid: str) -> Obj:
    body = job()
    return body | {"metadata": body["metadata"] | {"name": name, "uid": uid}}


@given(name=names, uid=uids, suffix=st.sampled_from(["prepare", "pods", "train-1", "train-99", "eval-0123abcd"]))
def test_a_childs_name_is_a_dns_label_that_keeps_hash_and_suffix(name: str, uid: str, suffix: str) -> None:
    found = child_name(parent(name, uid), suffix)
    assert len(found) <= 63
    assert LABEL.match(found)
    assert found.endswith(f"-{suffix}")


@given(name=names, uid=uids, attempt=st.integers(1, 99), index=st.integers(0, 511))
def test_a_training_pods_hostname_is_a_dns_label(name: str, uid: str, attempt: int, index: int) -> None:
    hostname = f"{jobs.train_name(parent(name, uid), attempt)}-{index}"
    assert len(hostname) <= 63
    assert LABEL.match(hostname)


@given(name=names, first=uids, second=uids)
def test_a_parent_created_again_gets_children_of_its_own(name: str, first: str, second: str) -> None:
    same = child_name(parent(name, first), "prepare") == child_name(parent(name, second), "prepare")
    assert same == (first == second)


@given(family=names, uid=uids)
def test_a_versions_name_fits_our_own_kinds(family: str, uid: str) -> None:
    found = version_name(family, uid)
    assert len(found) <= 40
    assert LABEL.match(found)


def test_ownership_is_by_uid_and_by_the_controller_alone() -> None:
    body = parent("tune", "a")
    child = {"metadata": {"ownerReferences": [owner_reference(body)]}}
    assert controlled_by(child, "a")
    assert not controlled_by(child, "b")
    child["metadata"]["ownerReferences"][0]["controller"] = False
    assert not controlled_by(child, "a")
    assert not controlled_by({"metadata": {}}, "a")


def test_pods_of_a_parents_jobs_are_known_by_the_jobs_name() -> None:
    body = parent("tune", "a")
    owner = {"kind": "Job", "name": child_name(body, "train-1"), "uid": "gone", "controller": True}
    pod = {"metadata": {"ownerReferences": [owner]}}
    assert is_stage_pod(body, pod)
    assert not is_stage_pod(parent("tune", "b"), pod)

"""The lineage of versions, and what differs between them."""

import asyncio
from typing import Any, cast

import pytest

from driftloop.api.modelversion import AnchorGate, Gate
from driftloop.cli import ancestry, differences
from driftloop.cli.ancestry import Generation, job_of
from driftloop.cli.approve import approval, obstacle
from driftloop.cli.cluster import Cluster
from driftloop.cli.lineage import generations

Obj = dict[str, Any]


def digest(digit: str) -> str:
    return "sha256:" + digit * 64


def version(name: str, parent: str | None = None, job: str | None = None, **status: Any) -> Obj:
    lineage: Obj = (
        {"job": job, "jobUid": f"uid-{job}", "dataUri": "pvc://d/rows", "dataDigest": digest("d")} if job else {}
    )
    lineage |= {"parent": parent, "baseDigest": digest("b")} if parent else {}
    lineage |= {"trigger": {"kind": "Drift", "service": "desk", "alert": "DriftloopModelDrift"}} if job else {}
    artefact = {"uri": f"pvc://models/{name}", "digest": digest("a")}
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": name, "creationTimestamp": "2026-11-27T10:00:00Z"},
        "spec": {"family": "support", "artefact": artefact, "lineage": lineage},
        "status": {"phase": "Approved", "gateSummary": "4 of 4 passed", **status},
    }


def job(name: str, uid: str = "", **training: Any) -> Obj:
    data = {"uri": "pvc://d/rows", "digest": digest("d"), "trainRows": 1200, "heldOutRows": 300, "feedbackRows": 400}
    return {
        "metadata": {"name": name, "uid": uid or f"uid-{name}"},
        "spec": {"training": training, "data": {"sources": [{"name": "rows", "uri": "pvc://d/rows"}]}},
        "status": {"data": data},
    }


class Objects:
    """A cluster with these objects."""

    def __init__(self, *objects: Obj) -> None:
        self._objects = {found["metadata"]["name"]: found for found in objects}

    async def get(self, kind: str, name: str) -> Obj | None:
        return self._objects.get(name)


def ancestry_of(name: str, depth: int, *objects: Obj) -> list[Generation]:
    return asyncio.run(generations(cast(Cluster, Objects(*objects)), name, depth))


CHAIN = (version("v3", "v2", "job3"), job("job3"), version("v2", "v1", "job2"), version("v1"))


def test_the_chain_leads_from_the_version_to_the_alert_and_back_to_the_import() -> None:
    printed = ancestry.text(ancestry_of("v3", 20, *CHAIN))
    for line in (
        "v3: Approved, 4 of 4 passed",
        "  job          job3",
        "  asked for by Drift: alert DriftloopModelDrift of service desk",
        f"  data         pvc://d/rows {digest('d')}",
        "  rows         1,200 trained, 300 held out, 400 from feedback",
        f"  trained from v2 {digest('b')}",
        "  job          job2 (was deleted)",
        "  job          none: the version was imported",
    ):
        assert f"{line}\n" in f"{printed}\n"
    documents = [ancestry.document(generation) for generation in ancestry_of("v3", 20, *CHAIN)]
    assert [found["name"] for found in documents] == ["v3", "v2", "v1"]
    assert documents[0]["lineage"]["trigger"]["alert"] == "DriftloopModelDrift"
    assert documents[0]["data"]["trainRows"] == 1200
    assert documents[1]["data"] is None


def test_the_lineage_and_the_differences_show_what_an_adapter_is_merged_onto() -> None:
    adapter, merged = version("v2", "v1", "job2"), version("v1")
    adapter["spec"]["artefact"]["bases"] = ["pvc://models/v1", "pvc://models/base"]
    printed = ancestry.text(ancestry_of("v2", 1, adapter))
    assert "  merged onto  pvc://models/v1\n  merged onto  pvc://models/base\n" in printed
    assert "merged onto" not in ancestry.text(ancestry_of("v1", 1, merged))
    found = differences.changes(Generation("v1", merged), Generation("v2", adapter))
    (bases,) = [change for change in found if change.field == "bases"]
    assert (bases.before, bases.after) == ("-", "pvc://models/v1, pvc://models/base")


def test_the_chain_is_bounded_and_ends_at_a_deleted_version() -> None:
    assert [found.name for found in ancestry_of("v3", 2, *CHAIN)] == ["v3", "v2"]
    deleted = ancestry_of("v3", 20, CHAIN[0], CHAIN[1])
    assert ancestry.text(deleted).endswith("v2: was deleted, so what is before it is unknown")
    assert ancestry.document(deleted[1]) == {"name": "v2", "exists": False}
    circle = (version("v2", "v1", "job2"), version("v1", "v2", "job1"))
    assert [found.name for found in ancestry_of("v2", 20, *circle)] == ["v2", "v1"]


def test_a_later_job_of_the_same_name_is_another_job() -> None:
    assert job_of(version("v", job="job2"), job("job2")) is not None
    assert job_of(version("v", job="job2"), job("job2", uid="another")) is None


# diff


def test_equal_versions_do_not_differ() -> None:
    one = Generation("a", version("v", job="j"), job("j"))
    assert differences.changes(one, one) == []
    assert differences.text([], "a", "b") == "a and b do not differ"


def test_each_section_has_its_differences() -> None:
    gate = {"name": "old", "kind": "retention", "verdict": "Pass", "message": "", "value": "0.9", "items": 300}
    before = Generation("a", version("a", job="j", gates=[gate]), job("j", learningRate=1e-4))
    worse = gate | {"verdict": "Fail", "value": "0.7", "baseline": "0.9", "difference": "-0.2", "lower": "-0.3"}
    other = job("k", learningRate=1e-5)
    other["status"]["data"]["trainRows"] = 10
    after = Generation("b", version("b", parent="a", job="k", gates=[worse]), other)
    changes = differences.changes(before, after)
    assert {(change.section, change.field): (change.before, change.after) for change in changes} == {
        ("gates", "old"): (
            "Pass, 0.9 of 1, n 300",
            "Fail, 0.7 of 1, stable 0.9, difference -0.2 [-0.3, ?], n 300",
        ),
        ("data", "rows"): (
            "1,200 trained, 300 held out, 400 from feedback",
            "10 trained, 300 held out, 400 from feedback",
        ),
        ("settings", "training.learningRate"): ("0.0001", "1e-05"),
        ("artefact", "uri"): ("pvc://models/a", "pvc://models/b"),
        ("artefact", "trained from"): ("-", "a"),
        ("artefact", "base digest"): ("-", digest("b")),
    }
    printed = differences.text(changes, "a", "b")
    assert "settings:\n  training.learningRate\n    a: 0.0001\n    b: 1e-05\n" in printed


def test_settings_of_a_deleted_job_are_unknown_not_equal() -> None:
    one, other = Generation("a", version("v", job="j"), job("j")), Generation("b", version("v", job="j"))
    found = {change.field: change.after for change in differences.changes(one, other)}
    assert found["rows"] == found["job"] == "unknown: the job was deleted"


def test_a_gate_in_one_line() -> None:
    gate = Gate(name="digest", kind="digest", verdict="Pass", message="")
    assert differences.gate_text(gate) == "Pass"


# approve


@pytest.mark.parametrize(("found", "code"), [("Approved", 0), ("Rejected", 1), ("Evaluating", 1), (None, 1)])
def test_only_a_version_that_awaits_approval_is_approved(found: str | None, code: int) -> None:
    ending = obstacle({"status": {"phase": found}})
    assert ending is not None
    assert ending.exit == code


def test_the_annotation_names_the_version_itself() -> None:
    assert obstacle({"status": {"phase": "AwaitingApproval"}}) is None
    assert approval("v1", "team")["metadata"]["annotations"] == {"driftloop.dev/approve": "v1"}


def test_the_loss_since_the_anchor_and_what_is_left_are_shown() -> None:
    anchor = AnchorGate(
        version="v0", difference="-0.0300", lower="-0.0440", total_delta="0.1000", left="0.0560", look=1, alpha="0.03"
    )
    gate = Gate(
        name="old", kind="retention", verdict="Pass", message="", value="0.9000", baseline="0.9020", anchor=anchor
    )
    assert differences.gate_text(gate) == (
        "Pass, 0.9000 of 1, stable 0.9020, since v0 -0.0300 [-0.0440, …], at least 0.0560 of 0.1000 left"
    )

"""What a job inherits from the version that it starts from: the rows that are held out, through the whole ancestry."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import FineTuneJob
from driftloop.contract.text import side
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.start import HeldOut, Problem, Refused, Start, Waiting, start
from driftloop.controller.kinds.finetunejob.tasks import Prepared, lineage, prepare_task
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason
from unit.controller.stages import approved, claim, deployment, job, prepared, service, version

FAMILIES = ("support", "desk", "base")
asked = st.sampled_from([None, 0, 10, 20, 50])
steps = st.tuples(st.sampled_from(FAMILIES), asked, st.sampled_from(["versionRef", "family", "serving"]))


def observed(origin: dict[str, Any], percent: int | None, family: str, parent: Obj | None) -> Observed:
    data = {"sources": [{"name": "rows", "uri": "pvc://shared/rows.csv"}], "heldOutPercent": percent}
    body = job(model={"from": origin}, data=data, output={"family": family})
    desk = service("desk")
    return Observed(
        body,
        FineTuneJob.model_validate(body).spec,
        versions=(parent,) if parent else (),
        claims=claim(),
        serving=desk,
        serving_deployments=(deployment(desk, parent["metadata"]["name"]),) if parent else (),
    )


def origin(kind: str, parent: Obj) -> dict[str, Any]:
    names = {"versionRef": parent["metadata"]["name"], "family": parent["spec"]["family"], "serving": "desk"}
    return {kind: names[kind] if kind == "family" else {"name": names[kind]}}


def of_version(parent: Obj, percent: int | None = None, family: str = "desk") -> Start | Problem:
    return start(observed(origin("versionRef", parent), percent, family, parent))


def trained(seen: Observed, found: Start, name: str) -> Obj:
    """The version that comes of a job, with the lineage that the job gives it."""
    born = lineage(seen, Prepared(prepare_task(seen, found), prepared(), found.parent), "trainer:1")
    return approved(version(name, family=seen.spec.output.family, lineage=born.dump()))


@given(st.sampled_from(FAMILIES), asked, st.lists(steps, min_size=1, max_size=5), st.lists(st.text(), max_size=20))
def test_what_a_version_holds_out_no_ancestor_was_trained_on(
    family: str, first: int | None, below: list[tuple[str, int | None, str]], texts: list[str]
) -> None:
    seen = observed({"uri": "pvc://shared/base"}, first, family, None)
    found = start(seen)
    assert isinstance(found, Start)
    held = [{text for text in texts if side(found.held_out.salt, text, found.held_out.percent) == "heldOut"}]
    parent = trained(seen, found, "v0")
    for generation, (family_below, percent, kind) in enumerate(below, 1):
        seen = observed(origin(kind, parent), percent, family_below, parent)
        below_found = start(seen)
        if percent not in (None, found.held_out.percent):
            assert isinstance(below_found, Refused)
            assert below_found.reason == Reason.HELD_OUT_PERCENT_CHANGED
            continue
        assert isinstance(below_found, Start)
        rule = below_found.held_out
        held.append({text for text in texts if side(rule.salt, text, rule.percent) == "heldOut"})
        parent = trained(seen, below_found, f"v{generation}")
    assert all(rows == held[0] for rows in held)


def test_another_share_is_refused_with_field_and_inherited_value() -> None:
    parent = approved(version(family="base", lineage={"heldOutSalt": "base", "heldOutPercent": 10}))
    found = of_version(parent, 20)
    assert isinstance(found, Refused)
    assert "data.heldOutPercent is 20" in found.message
    assert "or set it to 10" in found.message


@pytest.mark.parametrize("percent", [None, 10])
def test_the_inherited_share_may_be_left_out_or_repeated(percent: int | None) -> None:
    parent = approved(version(family="base", lineage={"heldOutSalt": "older", "heldOutPercent": 10}))
    found = of_version(parent, percent)
    assert isinstance(found, Start)
    assert found.held_out == HeldOut("older", 10)


@pytest.mark.parametrize(("percent", "expected"), [(None, 10), (0, 0), (25, 25)])
def test_a_version_that_records_nothing_gives_its_family_and_leaves_the_share_open(
    percent: int | None, expected: int
) -> None:
    found = of_version(approved(version(family="imported")), percent)
    assert isinstance(found, Start)
    assert found.held_out == HeldOut("imported", expected)


FEEDBACK = {"feedback": {"service": "dask"}}


@pytest.mark.parametrize(
    ("spec", "reason", "field", "name"),
    [
        ({"model": {"from": {"family": "bese"}}}, Reason.NO_APPROVED_VERSION, "model.from.family", "bese"),
        ({"model": {"from": {"versionRef": {"name": "v0"}}}}, Reason.VERSION_NOT_FOUND, "model.from.versionRef", "v0"),
        ({"model": {"from": {"serving": {"name": "dask"}}}}, Reason.SERVICE_NOT_FOUND, "model.from.serving", "dask"),
        ({"data": FEEDBACK}, Reason.SERVICE_NOT_FOUND, "data.feedback.service", "dask"),
        ({"evaluation": {"anchor": "v0"}}, Reason.VERSION_NOT_FOUND, "evaluation.anchor", "v0"),
    ],
)
def test_what_refers_to_nothing_waits_and_names_field_and_fix(
    spec: dict[str, Any], reason: Reason, field: str, name: str
) -> None:
    body = job(**spec)
    found = start(Observed(body, FineTuneJob.model_validate(body).spec, claims=claim()))
    assert isinstance(found, Waiting)
    assert found.reason == reason
    assert found.message.startswith(f"{field}: ")
    assert f" {name} " in found.message
    assert "in this namespace" in found.message
    assert "correct the name" in found.message


def test_the_task_and_the_lineage_say_what_was_inherited() -> None:
    parent = approved(version(family="base", lineage={"heldOutSalt": "older", "heldOutPercent": 30}))
    seen = observed(origin("versionRef", parent), None, "desk", parent)
    found = start(seen)
    assert isinstance(found, Start)
    task = prepare_task(seen, found)
    assert (task.held_out_salt, task.data.held_out_percent) == ("older", 30)
    born = trained(seen, found, "v1")["spec"]["lineage"]
    assert (born["heldOutSalt"], born["heldOutPercent"], born["parent"]) == ("older", 30, parent["metadata"]["name"])


@pytest.mark.parametrize(
    ("claims", "nodes", "reason"),
    [
        (claim(), 1, Reason.CLAIM_NOT_FOUND),
        (claim() | claim("code", "ReadWriteOnce"), 2, Reason.NEEDS_READ_WRITE_MANY),
        (claim() | claim("code", "ReadOnlyMany"), 2, None),
    ],
)
def test_the_claim_with_the_code_of_a_training_is_checked(
    claims: dict[str, Obj], nodes: int, reason: Reason | None
) -> None:
    training = {"entrypoint": "own:train", "code": "pvc://code/lib"}
    body = job(training=training, compute={"nodes": nodes})
    found = start(Observed(body, FineTuneJob.model_validate(body).spec, claims=claims))
    assert (found.reason if not isinstance(found, Start) else None) == reason


def resuming(resumed: Obj | None, **spec: Any) -> Start | Problem:
    body = job(resumeFrom="first", **spec)
    return start(Observed(body, FineTuneJob.model_validate(body).spec, claims=claim(), resumed=resumed))


def ended(phase: str | None, uid: str = "first-uid", **spec: Any) -> Obj:
    body = job(**spec)
    body["metadata"] |= {"name": "first", "uid": uid}
    return body | {"status": {"phase": phase}}


def test_a_job_resumes_from_the_run_of_a_failed_job_and_may_have_other_settings() -> None:
    found = resuming(ended("Failed"), training={"learningRate": 1e-6}, compute={"nodes": 4})
    assert isinstance(found, Start)
    assert found.resumed == "pvc://shared/work/runs/first-uid"
    assert isinstance(unrelated := start(observed({"uri": "pvc://shared/base"}, None, "desk", None)), Start)
    assert unrelated.resumed is None


def test_a_job_that_resumes_may_name_the_commit_that_a_branch_was() -> None:
    models = [{"from": {"uri": f"hf://org/{name}"}} for name in ("model", f"model@{'0a' * 20}", "other")]
    assert isinstance(resuming(ended("Failed", model=models[0]), model=models[1]), Start)
    assert isinstance(resuming(ended("Failed", model=models[0]), model=models[2]), Refused)


@pytest.mark.parametrize("phase", [None, "Pending", "Training", "Suspended"])
def test_a_job_waits_until_the_one_that_it_resumes_has_ended(phase: str | None) -> None:
    found = resuming(ended(phase))
    assert isinstance(found, Waiting)
    assert (found.reason, "first has not ended" in found.message) == (Reason.JOB_NOT_RESUMABLE, True)


def test_a_job_waits_for_the_one_that_it_resumes_to_exist() -> None:
    found = resuming(None)
    assert isinstance(found, Waiting)
    assert found.reason == Reason.JOB_NOT_FOUND


@pytest.mark.parametrize(
    ("resumed", "fix"),
    [
        (ended("Succeeded"), "model.from.versionRef"),
        (ended("Failed", uid=job()["metadata"]["uid"]), "this job itself"),
        (ended("Failed", storage="s3://bucket/work"), "another storage"),
        (ended("Failed", model={"from": {"uri": "pvc://shared/other"}}), "another model"),
        (ended("Failed", training={"adapter": {"type": "lora"}}), "another training.adapter"),
    ],
)
def test_a_job_that_can_not_be_resumed_is_refused_with_the_reason(resumed: Obj, fix: str) -> None:
    found = resuming(resumed)
    assert isinstance(found, Refused)
    assert found.reason == Reason.JOB_NOT_RESUMABLE
    assert fix in found.message

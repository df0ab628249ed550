"""The order of a gate: suites in the forms of the CRDs, their items on this machine, and what is wrong with them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from driftloop.cli.gating.order import Against, Order, evaluation_of, order_of
from driftloop.cli.manifests import BadInput

DIGEST = f"sha256:{'a' * 64}"
OLD = {"name": "old", "kind": "retention", "uri": "s3://bucket/old.jsonl"}
FLOOR = {"name": "least", "kind": "floor", "minimum": 0.9, "uri": "s3://bucket/least.jsonl"}
JUDGE = {"type": "judge", "judge": {"url": "https://judge.example/v1", "model": "m"}}


def version(**evaluation: Any) -> dict[str, Any]:
    spec = {"family": "support", "artefact": {"uri": "pvc://models/v", "digest": DIGEST}, "evaluation": evaluation}
    return {"apiVersion": "driftloop.dev/v1alpha1", "kind": "ModelVersion", "metadata": {"name": "v"}, "spec": spec}


def job(**evaluation: Any) -> dict[str, Any]:
    spec = {
        "model": {"from": {"uri": "pvc://shared/llama"}},
        "data": {"sources": [{"name": "rows", "uri": "pvc://shared/rows.csv"}]},
        "storage": "pvc://shared/work",
        "output": {"family": "support"},
        "evaluation": evaluation,
    }
    return {"apiVersion": "driftloop.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "j"}, "spec": spec}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def written(file: Path, *documents: dict[str, Any]) -> str:
    file.write_text(yaml.safe_dump_all(documents))
    return str(file)


def refusal(file: Path, *documents: dict[str, Any]) -> str:
    with pytest.raises(BadInput) as caught:
        evaluation_of(written(file, *documents))
    return str(caught.value).removeprefix(f"{file}: ")


def ordered(file: Path, *suites: dict[str, Any], **options: Any) -> Order:
    source = written(file, {"suites": list(suites)})
    model, items = options.pop("model", file.parent), options.pop("items", None)
    return order_of(source, model, Against(**({"baseline": None, "without_baseline": False} | options)), items)


@pytest.mark.parametrize("form", [version, job, dict])
def test_the_suites_are_those_of_a_version_of_a_job_or_of_the_section_itself(file: Path, form: Any) -> None:
    other = {"kind": "ConfigMap", "metadata": {"name": "other"}}
    documents = [form(suites=[FLOOR], maxTokens=7)] + ([] if form is dict else [other])
    found = evaluation_of(written(file, *documents))
    assert (found.suites[0].minimum, found.max_tokens) == (0.9, 7)


def test_a_misspelt_field_is_never_left_out(file: Path) -> None:
    wrong = FLOOR | {"minimun": 0.99}
    assert refusal(file, {"suites": [wrong]}) == "suites[0].minimun: unknown field. Did you mean minimum?"
    assert refusal(file, version(suites=[wrong])).startswith("spec.evaluation.suites[0].minimun: unknown field")


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        ({"suites": []}, "evaluation.suites: is empty"),
        ({"suites": [OLD, OLD]}, "evaluation.suites: old occurs twice"),
        ({"suites": [OLD], "reasoningTags": ["<t>"]}, "evaluation.reasoningTags: needs a start and an end"),
        ({"suites": [FLOOR | {"metric": JUDGE}]}, "suite least: a judge compares two models"),
        ({"suites": [OLD | {"metric": {"type": "judge"}}]}, "suite old: metric.type judge needs a judge"),
        ({"suites": [OLD], "engine": {"type": "vllm"}}, "evaluation.engine.type: vllm runs only as an image"),
        ({"suites": [OLD], "engine": {"gpus": 2}}, "engine.gpus: 2 needs vLLM"),
    ],
)
def test_what_the_api_server_would_refuse_or_this_machine_can_not_run_is_refused(
    file: Path, evaluation: dict[str, Any], message: str
) -> None:
    assert refusal(file, evaluation).startswith(message)


@pytest.mark.parametrize("documents", [[], [version(suites=[OLD])] * 2, [{"suites": [OLD]}, {"suites": [OLD]}]])
def test_a_file_that_does_not_say_which_evaluation_is_meant_is_refused(
    file: Path, documents: list[dict[str, Any]]
) -> None:
    assert refusal(file, *documents).startswith("must have exactly one FineTuneJob or ModelVersion, or only")


def test_a_suite_that_compares_needs_a_baseline_or_a_word_that_there_is_none(file: Path) -> None:
    with pytest.raises(BadInput, match="suite old compares with another model: set --baseline"):
        ordered(file, FLOOR, OLD)
    assert ordered(file, FLOOR, OLD, without_baseline=True).baseline is None
    assert ordered(file, FLOOR, OLD, baseline=file.parent).baseline == file.parent
    assert ordered(file, FLOOR).baseline is None


def test_items_in_the_folder_replace_those_at_the_uri(file: Path) -> None:
    (file.parent / "least.csv").write_text("prompt,completion\n")
    assert ordered(file, FLOOR, items=file.parent).items == {"least": file.parent / "least.csv"}
    assert ordered(file, FLOOR).items == {}
    (file.parent / "least.jsonl").write_text("")
    with pytest.raises(BadInput, match=r"--items: suite least has least.jsonl and least.csv: keep one"):
        ordered(file, FLOOR, items=file.parent)


@pytest.mark.parametrize(
    ("place", "named"),
    [({"uri": "pvc://claim/x.jsonl"}, "pvc://claim/x.jsonl"), ({"items": "data"}, "data of its job")],
)
def test_items_that_only_a_cluster_has_must_be_in_the_folder(file: Path, place: dict[str, str], named: str) -> None:
    suite = {"name": "least", "kind": "floor", **place}
    with pytest.raises(BadInput, match=rf"{named}, which this machine can't read: set --items to a folder with least"):
        ordered(file, suite, items=file.parent)


@pytest.mark.parametrize("option", ["model", "baseline", "items"])
def test_a_folder_that_does_not_exist_is_named(file: Path, option: str) -> None:
    with pytest.raises(BadInput, match=rf"--{option}: .*/missing is not a folder"):
        ordered(file, FLOOR, **{option: file.parent / "missing"})


TOTAL = OLD | {"totalDelta": 0.1}


@pytest.mark.parametrize(
    ("suite", "options", "message"),
    [
        (TOTAL, {}, "suite old has a totalDelta: set --anchor to the folder of the model"),
        (OLD, {"anchor": True}, "--anchor: no suite has a totalDelta"),
        (TOTAL, {"anchor": True, "baseline": None, "without_baseline": True}, "--anchor: set --baseline too"),
    ],
)
def test_an_anchor_and_a_total_need_each_other(
    file: Path, suite: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    given = {"baseline": file.parent} | options | ({"anchor": file.parent} if options.get("anchor") else {})
    with pytest.raises(BadInput, match=message):
        ordered(file, suite, **given)
    found = ordered(file, TOTAL, baseline=file.parent, anchor=file.parent, anchor_look=3)
    assert (found.anchor, found.anchor_look) == (file.parent, 3)


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ([FLOOR | {"totalDelta": 0.1}], "suite least: totalDelta limits the loss of a retention suite"),
        ([OLD | {"totalDelta": 0.01}], "suite old: totalDelta must be above 0 and at least delta, which is 0.05"),
        ([TOTAL | {"metric": JUDGE}], "suite old: a judge compares with one model only"),
        ([TOTAL, *(FLOOR | {"name": f"f{n}"} for n in range(8))], "with totalDelta at most 8 suites are possible"),
    ],
)
def test_a_total_that_can_not_be_judged_is_refused(file: Path, suites: list[dict[str, Any]], message: str) -> None:
    assert message in refusal(file, {"suites": suites})

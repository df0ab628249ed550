import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from driftloop.api.metric import Metric
from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import least_items
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import read_items
from driftloop_trainer.data.rows import Part, Row, Turn
from driftloop_trainer.prepare.suites import check_suites, refuse_too_short, suite_items, write_suite

SUITE = SuiteSpec(name="target", kind="target", items="feedback", max_items=10)


def row(prompt: str, completion: str | None = "x", part: Part = "feedback", **fields: Any) -> Row:
    return Row.answering(part, "s", prompt, completion, **fields)


def test_items_come_from_the_suite_s_part_and_have_an_answer() -> None:
    call = Turn("assistant", "", '{"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}')
    only_a_call = Row("feedback", "s", (Turn("user", "d"), call))
    rows = [row("a"), row("b", part="data"), row("c", completion=None), only_a_call, Row("feedback", "s", text="e")]
    assert [item["prompt"] for item in suite_items(rows, SUITE)] == ["a"]


def test_an_answer_that_is_labelled_as_bad_is_not_what_a_suite_asks_for() -> None:
    rows = [replace(row("a"), label=False), replace(row("a", "y"), label=True), replace(row("b"), label=False)]
    assert [(item["prompt"], item["completion"]) for item in suite_items(rows, SUITE)] == [("a", "y")]


def test_a_conversation_is_an_item_with_its_messages_and_is_read_back(tmp_path: Path) -> None:
    history = (Turn("system", "be kind"), Turn("user", "x"), Turn("assistant", "y"))
    rows = [row("a", history=history), row("a"), row("b", history=history[:1])]
    items = suite_items(rows, SUITE)
    write_suite(items, SUITE, tmp_path)
    found = {item.id: item for item in read_items(tmp_path / "heldout" / "target.jsonl", "target.jsonl", tmp_path)}
    assert len(found) == 3
    for each in rows:
        assert found[each.key].question.chat["messages"] == [turn.message() for turn in each.question]
        assert found[each.key].completion == each.completion


LEAST = least_items(SuiteSpec(name="s", kind="retention", items="data", delta=0.05)) or 0


@pytest.mark.parametrize(
    ("fields", "items", "clusters", "message"),
    [
        (
            {},
            LEAST - 1,
            LEAST - 1,
            f"s: has {LEAST - 1} items, .*retention, delta 0.05.* {LEAST} independent.*heldOutPercent",
        ),
        ({}, 10 * LEAST, 3, f"{10 * LEAST} items in 3 clusters"),
        ({}, 0, 0, "0 items"),
        ({"delta": 0.01}, 200, 200, "delta 0.01"),
        ({"delta": 0.001}, 2000, 2000, "maxItems .now 2000."),
        ({"items": None, "uri": "s3://b/i.csv"}, 5, 5, "add items to s3://b/i.csv"),
        ({"kind": "floor", "minimum": 0.99}, 50, 50, "floor, minimum 0.99"),
        ({"kind": "floor", "minimum": 1.0}, 2000, 2000, "no number of items can prove minimum 1"),
        ({"kind": "target"}, 0, 0, "target, minGain 0"),
    ],
)
def test_a_suite_that_can_show_nothing_is_refused_with_the_counts(
    fields: dict[str, Any], items: int, clusters: int, message: str
) -> None:
    suite = SuiteSpec.model_validate({"name": "s", "kind": "retention", "items": "data", "delta": 0.05} | fields)
    with pytest.raises(StageFailure, match=f"SuiteTooShort: suite {message}" if message[0] == "s" else message):
        refuse_too_short(suite, items, clusters)


def test_as_many_items_as_the_gate_needs_will_do() -> None:
    refuse_too_short(SuiteSpec(name="s", kind="retention", items="data", delta=0.05), LEAST, LEAST)
    refuse_too_short(SuiteSpec(name="s", kind="floor", items="data", minimum=0.5), 20, 20)


def test_a_prompt_is_asked_once_and_no_more_than_the_most_items() -> None:
    items = suite_items([row(f"q{n}") for n in range(30)] + [row("Q1", completion="y")], SUITE)
    assert len(items) == 10
    assert len({item["id"] for item in items}) == 10
    assert items == suite_items([row(f"q{n}") for n in reversed(range(30))], SUITE)


def test_one_user_s_items_are_one_cluster() -> None:
    clusters = [
        item["cluster"] for item in suite_items([row("a", cluster="u"), row("b", cluster="u"), row("c")], SUITE)
    ]
    assert len(set(clusters)) == 2


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    items = suite_items([row("ä"), row("b")], SUITE)
    told = write_suite(items, SUITE, tmp_path)
    content = (tmp_path / "heldout" / "target.jsonl").read_bytes()
    assert [json.loads(line) for line in content.splitlines()] == items
    assert told.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert told.items == 2


def test_similar_items_count_as_one_in_the_number_that_the_plan_uses(tmp_path: Path) -> None:
    items = suite_items([row("a"), row("b"), row("c")], SUITE)
    alike = [item | {"cluster": "same" if number < 2 else "other"} for number, item in enumerate(items)]
    told = write_suite(alike, SUITE, tmp_path)
    assert (told.items, told.clusters) == (3, 2)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ({"type": "numeric"}, "BadItems: suite target: item .*the completion has no number"),
        ({"type": "json", "schema": {"type": "objekt"}}, "BadMetric: suite target: metric: metric.schema is not"),
    ],
)
def test_a_metric_that_cannot_measure_the_held_out_rows_is_told_before_training(
    metric: dict[str, Any], message: str, tmp_path: Path
) -> None:
    suite = SUITE.model_copy(update={"metric": Metric.model_validate(metric), "max_items": 100})
    rows = [row(f"question {n}", completion="3" if n else "many") for n in range(100)]
    with pytest.raises(StageFailure, match=message):
        check_suites([suite], rows, tmp_path)

import hashlib
import json
from pathlib import Path
from typing import Any

from driftloop.api.base import SuiteSpec
from driftloop_trainer.prepare.rows import Part, Row, Turn
from driftloop_trainer.prepare.suites import suite_items, write_suite

SUITE = SuiteSpec(name="target", kind="target", items="feedback", max_items=10)


def row(prompt: str, completion: str | None = "x", part: Part = "feedback", **fields: Any) -> Row:
    return Row.answering(part, "s", prompt, completion, **fields)


def test_items_come_from_the_suite_s_part_and_have_an_answer() -> None:
    rows = [row("a"), row("b", part="data"), row("c", completion=None), row("d", history=(Turn("user", "x"),))]
    assert [item["prompt"] for item in suite_items(rows, SUITE)] == ["a"]


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

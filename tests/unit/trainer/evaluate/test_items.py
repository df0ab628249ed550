import hashlib
import json
from pathlib import Path

import pytest

from driftloop.api.base import SuiteSpec
from driftloop.contract.names import EXIT_BAD_INPUT, VOLUMES_ENV
from driftloop.contract.storage import StorageError
from driftloop_trainer.evaluate.items import load_items, parse_items
from driftloop_trainer.failure import StageFailure


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VOLUMES_ENV, str(tmp_path))
    (tmp_path / "claim").mkdir()
    return tmp_path / "claim"


def suite(name: str = "items.jsonl", **fields: object) -> SuiteSpec:
    return SuiteSpec.model_validate({"name": "old", "kind": "retention", "uri": f"pvc://claim/{name}"} | fields)


def lines(*rows: dict[str, str]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_csv_and_json_lines_give_the_same_items() -> None:
    from_csv = parse_items('prompt,completion\n"a, b",x\nc,"y\nz"\n', is_csv=True)
    from_json = parse_items(
        lines({"prompt": "a, b", "completion": "x"}, {"prompt": "c", "completion": "y\nz"}), is_csv=False
    )
    assert [(i.prompt, i.completion, i.cluster) for i in from_csv] == [
        (i.prompt, i.completion, i.cluster) for i in from_json
    ]


def test_the_same_prompt_is_one_cluster_unless_it_is_said() -> None:
    found = parse_items(
        lines(
            {"prompt": "Where is it?", "completion": "a"},
            {"prompt": "where  is it?", "completion": "b"},
            {"prompt": "Where is it?", "completion": "c", "cluster": "other", "id": "7"},
        ),
        is_csv=False,
    )
    assert found[0].cluster == found[1].cluster != found[2].cluster
    assert [item.id for item in found] == ["1", "2", "7"]


def test_a_line_separator_inside_a_text_is_no_end_of_line() -> None:
    row = json.dumps({"prompt": "a\u2028b", "completion": "c"}, ensure_ascii=False)
    assert parse_items(row + "\n", is_csv=False)[0].prompt == "a\u2028b"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "line 1 is not JSON"),
        ("[1]\n", "line 1 is not a JSON object"),
        (lines({"prompt": "a", "completion": "b"}, {"prompt": "a", "answer": "b"}), "line 2: completion must be"),
        (lines({"prompt": " ", "completion": "b"}), "line 1: prompt must be"),
    ],
)
def test_a_wrong_line_is_named(claim: Path, content: str, message: str) -> None:
    (claim / "items.jsonl").write_text(content)
    with pytest.raises(StageFailure, match=message) as failure:
        load_items(suite(), claim)
    assert failure.value.reason == "BadItems"
    assert failure.value.exit_code == EXIT_BAD_INPUT


def test_a_wrong_column_names_those_that_are_there(claim: Path) -> None:
    (claim / "items.csv").write_text("text,category\na,b\n")
    with pytest.raises(StageFailure, match="the columns are text, category"):
        load_items(suite("items.csv"), claim)


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_suite_without_items_is_an_error(claim: Path, content: str) -> None:
    (claim / "items.jsonl").write_text(content)
    with pytest.raises(StageFailure) as failure:
        load_items(suite(), claim)
    assert failure.value.reason == "NoItems"


def test_a_changed_file_is_refused(claim: Path) -> None:
    content = lines({"prompt": "a", "completion": "b"})
    (claim / "items.jsonl").write_text(content)
    digest = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    assert len(load_items(suite(digest=digest), claim)) == 1
    (claim / "items.jsonl").write_text(content + content)
    with pytest.raises(StageFailure, match="the file was changed") as failure:
        load_items(suite(digest=digest), claim)
    assert failure.value.reason == "DigestMismatch"


def test_a_missing_file_is_named(claim: Path) -> None:
    with pytest.raises(StorageError, match=r"pvc://claim/items\.jsonl"):
        load_items(suite(), claim)


def test_the_sample_does_not_depend_on_the_order_of_the_file(claim: Path) -> None:
    rows = [{"prompt": f"question {i}", "completion": str(i), "id": str(i)} for i in range(50)]
    (claim / "items.jsonl").write_text(lines(*rows))
    (claim / "back.jsonl").write_text(lines(*reversed(rows)))
    found = load_items(suite(max_items=10), claim)
    assert len(found) == 10
    assert found == load_items(suite("back.jsonl", max_items=10), claim)

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from driftloop.api.suite import SuiteSpec
from driftloop.contract.names import EXIT_BAD_INPUT, VOLUMES_ENV
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError
from driftloop_trainer.data.items import Item, Question, load_items, read_items


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(VOLUMES_ENV, str(tmp_path))
    (tmp_path / "claim").mkdir()
    return tmp_path / "claim"


def suite(name: str = "items.jsonl", **fields: object) -> SuiteSpec:
    return SuiteSpec.model_validate({"name": "old", "kind": "retention", "uri": f"pvc://claim/{name}"} | fields)


def lines(*rows: dict[str, Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def read(folder: Path, content: str, name: str = "items.jsonl") -> list[Item]:
    (folder / name).write_text(content)
    return read_items(folder / name, name, folder)


def test_csv_and_json_lines_give_the_same_items(tmp_path: Path) -> None:
    from_csv = read(tmp_path, 'prompt,completion\n"a, b",x\nc,"y\nz"\n', "items.csv")
    from_json = read(tmp_path, lines({"prompt": "a, b", "completion": "x"}, {"prompt": "c", "completion": "y\nz"}))
    assert [(i.question, i.completion, i.cluster) for i in from_csv] == [
        (i.question, i.completion, i.cluster) for i in from_json
    ]


def test_the_same_prompt_is_one_cluster_unless_it_is_said(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        lines(
            {"prompt": "Where is it?", "completion": "a"},
            {"prompt": "where  is it?", "completion": "b"},
            {"prompt": "Where is it?", "completion": "c", "cluster": "other", "id": "7"},
        ),
    )
    assert found[0].cluster == found[1].cluster != found[2].cluster
    assert [item.id for item in found] == ["1", "2", "7"]


SYSTEM, USER = {"role": "system", "content": "Be short."}, {"role": "user", "content": "yes"}
ANSWER = {"role": "assistant", "content": "blocked"}


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"messages": [SYSTEM, USER], "completion": "blocked"}, "items.jsonl"),
        ({"messages": [SYSTEM, USER, ANSWER]}, "items.jsonl"),
        ({"prompt": [SYSTEM, USER], "completion": [ANSWER]}, "items.jsonl"),
        ({"prompt": "yes", "messages": [SYSTEM, USER], "completion": "blocked"}, "items.jsonl"),
        ({"messages": json.dumps([SYSTEM, USER]), "completion": "blocked"}, "items.csv"),
    ],
)
def test_a_conversation_is_asked_whole(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    if name.endswith(".csv"):
        sink = io.StringIO()
        writer = csv.DictWriter(sink, list(row))
        writer.writeheader()
        writer.writerow(row)
        [item] = read(tmp_path, sink.getvalue(), name)
    else:
        [item] = read(tmp_path, lines(row))
    assert item.question.chat == {"messages": [SYSTEM, USER]}
    assert (item.question.prompt, item.completion) == ("yes", "blocked")


def test_a_turn_alone_is_a_prompt(tmp_path: Path) -> None:
    [item] = read(tmp_path, lines({"messages": [USER], "completion": "x"}))
    assert item.question == Question("yes")


def test_calls_are_sent_as_the_api_has_them(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "rate", "arguments": {"to": "EUR"}}}
    called = {"role": "assistant", "content": None, "tool_calls": [call]}
    tools = [{"type": "function", "function": {"name": "rate"}}]
    messages = [USER, called, {"role": "tool", "content": "1.1", "tool_call_id": "c1"}]
    [item] = read(tmp_path, lines({"messages": messages, "tools": tools, "completion": "1.1"}))
    sent = item.question.chat
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "rate", "arguments": '{"to": "EUR"}'}
    assert (sent["tools"], sent["tool_choice"]) == (tools, "none")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "line 1 is not JSON"),
        ("[1]\n", "row 1 is not a JSON object"),
        (lines({"prompt": "a", "completion": "b"}, {"prompt": "a", "answer": "b"}), "line 2: completion must be"),
        (lines({"prompt": " ", "completion": "b"}), "line 1: prompt must be"),
        (lines({"prompt": "a", "completion": {"b": "c"}}), "line 1, column 'completion': .* is not a text"),
        (lines({"prompt": "a\ud83d", "completion": "b"}), "line 1: half of a surrogate pair"),
        (lines({"prompt": "a", "completion": "b\ud83d"}), "line 1: half of a surrogate pair"),
        (lines({"prompt": "a", "completion": "b", "system": "be kind"}), "column 'system' .*: move it into messages"),
        (lines({"messages": [USER, ANSWER], "completion": "b"}), "line 1: the conversation ends with an answer"),
        (lines({"messages": [USER, ANSWER | {"tool_calls": [{"name": "f"}]}]}), "line 1: completion must be"),
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


@pytest.mark.parametrize(
    "content", [b"prompt,completion\na,b,c\n", b"prompt,prompt,completion\na,b,c\n", b"prompt\n\xff\n"]
)
def test_a_file_in_doubt_is_refused_as_data_are(claim: Path, content: bytes) -> None:
    (claim / "items.csv").write_bytes(content)
    with pytest.raises(StageFailure, match=r"3 cells|occurs twice|not UTF-8") as failure:
        load_items(suite("items.csv"), claim)
    assert failure.value.reason == "BadItems"


def test_a_changed_file_is_refused(claim: Path) -> None:
    content = lines({"prompt": "a", "completion": "b"})
    (claim / "items.jsonl").write_text(content)
    digest = f"sha256:{hashlib.sha256(content.encode()).hexdigest()}"
    assert len(load_items(suite(digest=digest), claim)) == 1
    (claim / "items.jsonl").write_text(content + content)
    with pytest.raises(StageFailure, match="the file has changed") as failure:
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


def test_a_system_message_is_added_where_there_is_none() -> None:
    own = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "a"}]
    assert Question("a").with_system("Be short.").chat["messages"] == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "a"},
    ]
    assert Question("a", json.dumps(own)).with_system("Be short.").chat["messages"] == own
    assert Question("a").with_system("") == Question("a")

import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from driftloop.api.finetunejob import Columns, DataSource, FineTuneJob
from driftloop.contract.names import EXIT_RETRY
from driftloop.podlib.ending import StageFailure, classify
from driftloop.podlib.storage import StorageError
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.sources import read_source


@pytest.fixture(autouse=True)
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path))
    (tmp_path / "c").mkdir()
    return tmp_path / "c"


def source(name: str, **columns: str) -> DataSource:
    return DataSource(name="s", uri=f"pvc://c/{name}", columns=Columns(**columns))


def read(name: str, tmp_path: Path, **columns: str) -> list[Row]:
    return read_source(source(name, **columns), "data", tmp_path, "sft").rows


def read_pairs(volume: Path, tmp_path: Path, *records: Any, **columns: str) -> tuple[list[Row], dict[str, int]]:
    (volume / "d.jsonl").write_text(lines(*records))
    found = read_source(source("d.jsonl", **columns), "data", tmp_path, "dpo")
    return found.rows, dict(found.dropped)


def read_labelled(volume: Path, tmp_path: Path, *records: Any, **columns: str) -> list[Row]:
    (volume / "d.jsonl").write_text(lines(*records))
    return read_source(source("d.jsonl", **columns), "data", tmp_path, "kto").rows


def lines(*records: Any) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


def test_the_three_formats_give_the_same_rows(volume: Path, tmp_path: Path) -> None:
    records = [{"q": 'Say "hi",\nplease', "a": "007"}, {"q": "Übung", "a": "x"}]
    (volume / "d.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (volume / "d.csv").write_text('\ufeffq,a\n"Say ""hi"",\nplease",007\nÜbung,x\n')
    pq.write_table(pa.Table.from_pylist(records), volume / "d.parquet")
    expected = [Row.answering("data", "s", record["q"], record["a"]) for record in records]
    for name in ("d.jsonl", "d.csv", "d.parquet"):
        assert read(name, tmp_path, prompt="q", completion="a") == expected


def test_customary_columns_are_found_by_name(volume: Path, tmp_path: Path) -> None:
    (volume / "d.csv").write_text("text\nhello\n")
    assert read("d.csv", tmp_path) == [Row("data", "s", text="hello")]


def test_a_conversation_keeps_its_turns(volume: Path, tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "hello"},
    ]
    (volume / "d.jsonl").write_text(json.dumps({"messages": messages}) + "\n")
    [row] = read("d.jsonl", tmp_path)
    assert row == Row.answering("data", "s", "hi", "hello", history=(Turn("system", "be kind"),))
    assert row.key == Row.answering("data", "s", "hi", "other").key


@pytest.mark.parametrize(
    ("record", "column", "way"),
    [
        (
            {"conversations": [{"from": "human", "value": "a"}], "system": "be kind"},
            "system",
            "messages: conversations",
        ),
        ({"messages": [{"role": "user", "content": "a"}], "images": ["x"]}, "images", "messages: messages"),
        ({"prompt": "a", "completion": "b", "label": False}, "label", "prompt: prompt, completion: completion"),
        ({"prompt": "a", "completion": "b", "input": "c"}, "input", "prompt: prompt, completion: completion"),
        (
            {"prompt": "a", "completion": "b", "system_prompt": "be kind"},
            "system_prompt",
            "prompt: prompt, completion: completion",
        ),
    ],
)
def test_a_column_that_is_part_of_the_rows_is_not_left_out_unasked(
    volume: Path, tmp_path: Path, record: dict[str, Any], column: str, way: str
) -> None:
    (volume / "d.jsonl").write_text(lines(record))
    with pytest.raises(StageFailure, match=rf"WrongColumn: .*'{column}' may be part of the rows .* to {way} to ignore"):
        read("d.jsonl", tmp_path)
    named = dict(part.split(": ") for part in way.split(", "))
    assert len(read("d.jsonl", tmp_path, **named)) == 1


def test_a_missing_column_is_named_with_those_that_are_there(volume: Path, tmp_path: Path) -> None:
    (volume / "d.csv").write_text("text,category\nhello,x\n")
    with pytest.raises(
        StageFailure, match=r"WrongColumn: source s: no column 'label'; the file has 'text', 'category'"
    ):
        read("d.csv", tmp_path, prompt="text", completion="label")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", b'{"text": "a"}\n{"text": \n', "line 2"),
        ("d.csv", b"text\n\xff\xfe\n", "line 2: byte 0xff is not UTF-8"),
        ("d.parquet", b"no parquet", "Parquet"),
        ("d.jsonl", b'{"messages": "[{}]"}\n', "line 1, column 'messages': message 1: the role is None"),
        ("d.csv", b"prompt,completion\na,b,c\n", "line 2: 3 cells"),
        ("d.jsonl", b'{"prompt": "a", "completion": {"label": "b"}}\n', "line 1, column 'completion': .* not a text"),
        (
            "d.jsonl",
            b'{"prompt": "a", "completion": "b"}\n{"prompt": ["a"]}\n',
            "line 2, column 'prompt': .* not a text",
        ),
        (
            "d.jsonl",
            b'{"prompt": "a", "completion": [{"role": "user", "content": "b"}]}\n',
            "must have the role assistant",
        ),
        (
            "d.csv",
            b"prompt,completion\n\"[{'role': 'user', 'content': 'a'}]\",b\n",
            "line 2, column 'prompt': .*Python's",
        ),
        ("d.jsonl", b'{"messages": [], "tools": "f"}\n', "line 1, column 'tools': not JSON"),
    ],
)
def test_a_file_that_does_not_read_says_where(
    volume: Path, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (volume / name).write_bytes(content)
    with pytest.raises(StageFailure, match=f"DataUnreadable: source s, pvc://c/{name}: .*{message}"):
        read(name, tmp_path)


def test_a_file_that_is_not_there_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"pvc://c/none\.csv: no such file"):
        read("none.csv", tmp_path)


def test_an_unknown_ending_asks_for_the_format(volume: Path, tmp_path: Path) -> None:
    (volume / "d.txt").write_text("hello")
    with pytest.raises(StageFailure, match="UnknownFormat: source s: set format"):
        read("d.txt", tmp_path)


ANSWERED = (Turn("user", "hi"), Turn("assistant", "hello"))
USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "hi", "completion": "hello"},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"prompt": [USER], "completion": "hello"},
        {"prompt": "hi", "completion": ASSISTANT},
        {"prompt": json.dumps([USER]), "completion": json.dumps([ASSISTANT])},
        {"messages": [USER, ASSISTANT]},
        {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"conversation": [USER, ASSISTANT]},
    ],
)
def test_a_conversation_reads_the_same_in_every_shape(volume: Path, tmp_path: Path, record: dict[str, Any]) -> None:
    (volume / "d.jsonl").write_text(lines(record))
    assert read("d.jsonl", tmp_path) == [Row("data", "s", ANSWERED)]
    pq.write_table(pa.Table.from_pylist([record]), volume / "d.parquet")
    assert read("d.parquet", tmp_path) == [Row("data", "s", ANSWERED)]


def test_what_holds_nothing_to_learn_is_left_out_and_counted(volume: Path, tmp_path: Path) -> None:
    conversations = [
        [USER, ASSISTANT],
        [USER, ASSISTANT | {"content": ""}],
        [USER, ASSISTANT | {"content": None}, USER, ASSISTANT],
        [ASSISTANT],
        [],
        [USER | {"content": "cut \ud83d"}, ASSISTANT],
    ]
    (volume / "d.jsonl").write_text(lines(*({"messages": messages} for messages in conversations)))
    found = read_source(source("d.jsonl"), "data", tmp_path, "sft")
    assert found.rows == [Row("data", "s", ANSWERED)]
    assert found.dropped == {"emptyAnswer": 2, "emptyPrompt": 2, "loneSurrogate": 1}


def test_bytes_that_pandas_spelled_out_are_refused(volume: Path, tmp_path: Path) -> None:
    (volume / "d.csv").write_text("prompt,completion\nhi,b'yes'\nho,b'no'\n")
    with pytest.raises(StageFailure, match=r"d\.csv: column 'completion': all 2 cells are bytes in Python's syntax"):
        read_source(source("d.csv"), "data", tmp_path, "sft")


def test_a_row_whose_completion_or_prompt_is_empty_is_left_out_and_counted(volume: Path, tmp_path: Path) -> None:
    records = [{"prompt": "a"}, {"prompt": "b", "completion": "x"}, {"prompt": "\u200b ", "completion": "y"}, {}]
    (volume / "d.jsonl").write_text(lines(*records, {"prompt": "c", "completion": float("nan")}))
    found = read_source(source("d.jsonl"), "data", tmp_path, "sft")
    assert [(row.prompt, row.completion) for row in found.rows] == [("b", "x")]
    assert found.dropped == {"emptyAnswer": 2, "emptyPrompt": 2}


def test_two_answers_in_a_row_are_both_kept(volume: Path, tmp_path: Path) -> None:
    (volume / "d.jsonl").write_text(lines({"messages": [USER, ASSISTANT, ASSISTANT | {"content": "and bye"}]}))
    assert read("d.jsonl", tmp_path) == [Row("data", "s", (*ANSWERED, Turn("assistant", "and bye")))]


def test_labels_that_are_no_text_are_spelled_as_json_does(volume: Path, tmp_path: Path) -> None:
    (volume / "d.jsonl").write_text(lines(*({"prompt": 0, "completion": label} for label in (7, 0.5, True, 0))))
    assert [row.completion for row in read("d.jsonl", tmp_path)] == ["7", "0.5", "true", "0"]
    assert {row.prompt for row in read("d.jsonl", tmp_path)} == {"0"}


def test_a_row_has_its_tools_and_its_place(volume: Path, tmp_path: Path) -> None:
    schemas = [{"type": "function", "function": {"name": "rate"}}]
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "rate", "arguments": "{}"}}]}
    (volume / "d.jsonl").write_text("\n" + lines({"messages": [USER, call], "tools": schemas, "schemas": []}))
    [row] = read("d.jsonl", tmp_path)
    assert (row.tools, row.place, row.completion) == (json.dumps(schemas), "line 2", "")
    assert row.answer is not None
    assert row.answer.message()["tool_calls"][0]["function"] == {"name": "rate", "arguments": {}}
    assert [row.tools for row in read("d.jsonl", tmp_path, messages="messages", tools="schemas")] == [""]
    assert [row.tools for row in read("d.jsonl", tmp_path, messages="messages")] == [""]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("prompt,prompt,completion\na,b,c\n", {}, "column 'prompt' occurs 2 times"),
        ("prompt,text\na,b\n", {"prompt": "prompt", "text": "text"}, "one of prompt, text and messages"),
        ("text,completion\na,b\n", {"text": "text", "completion": "completion"}, "a completion without its prompt"),
        ("text,tools\na,b\n", {"text": "text", "tools": "tools"}, "have no effect for plain text"),
        ("instruction,output\na,b\n", {}, "set the columns.*'instruction', 'output'"),
    ],
)
def test_columns_that_are_in_doubt_are_refused(
    volume: Path, tmp_path: Path, content: str, columns: dict[str, str], message: str
) -> None:
    (volume / "d.csv").write_text(content)
    with pytest.raises(StageFailure, match=f"WrongColumn.*{message}"):
        read("d.csv", tmp_path, **columns)


def test_a_volume_that_fails_is_no_fault_of_the_file(
    volume: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    (volume / "d.csv").write_text("text\na\n")
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(StorageError, match=r"pvc://c/d\.csv.*Input/output") as failure:
        read("d.csv", tmp_path)
    assert classify(failure.value).exit_code == EXIT_RETRY


ASKED, GOOD, BAD = (
    {"role": role, "content": text} for role, text in (("user", "q"), ("assistant", "a"), ("assistant", "b"))
)
PAIR = Row.answering("data", "s", "q", "a")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "chosen": "a", "rejected": "b"},
        {"prompt": [ASKED], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "q", "chosen": GOOD, "rejected": json.dumps([BAD])},
        {"chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]},
        {"prompt": "q", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD], "score_chosen": 9},
    ],
    ids=["texts", "messages", "single messages", "whole conversations", "whole conversations beside their prompt"],
)
def test_every_common_form_of_a_pair_gives_the_same_row(volume: Path, tmp_path: Path, record: dict[str, Any]) -> None:
    [row], dropped = read_pairs(volume, tmp_path, record)
    assert (row.turns, row.rejected, dropped) == (PAIR.turns, Turn("assistant", "b"), {})
    assert row.key == PAIR.key


def test_the_columns_of_pairs_can_be_named(volume: Path, tmp_path: Path) -> None:
    record = {"question": "q", "better": "a", "worse": "b", "system": "unread"}
    [row], _ = read_pairs(volume, tmp_path, record, prompt="question", chosen="better", rejected="worse")
    assert (row.turns, row.rejected) == (PAIR.turns, Turn("assistant", "b"))


def test_a_pair_keeps_all_messages_that_its_conversations_share(volume: Path, tmp_path: Path) -> None:
    system, more = {"role": "system", "content": "be kind"}, {"role": "user", "content": "and now?"}
    shared = [system, ASKED, GOOD, more]
    [row], _ = read_pairs(volume, tmp_path, {"chosen": [*shared, GOOD], "rejected": [*shared, BAD]})
    assert [turn.content for turn in row.all_turns] == ["be kind", "q", "a", "and now?", "a", "b"]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": " a\n"}, "equalAnswers"),
        ({"prompt": "q", "chosen": "a", "rejected": ""}, "emptyAnswer"),
        ({"prompt": "q", "chosen": None, "rejected": "b"}, "emptyAnswer"),
        ({"prompt": " ", "chosen": "a", "rejected": "b"}, "emptyPrompt"),
        ({"prompt": "q", "chosen": "a", "rejected": "\ud83d"}, "loneSurrogate"),
        ({"chosen": [ASKED, GOOD, ASKED, GOOD], "rejected": [ASKED, BAD, ASKED, BAD]}, "differsEarlier"),
        ({"chosen": [ASKED, GOOD], "rejected": [ASKED, GOOD, ASKED, BAD]}, "differsEarlier"),
    ],
)
def test_a_pair_with_nothing_to_learn_from_is_dropped_counted_and_the_first_is_named(
    volume: Path, tmp_path: Path, record: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    useful = {"prompt": "q", "chosen": [ASKED, GOOD], "rejected": "b"}
    rows, dropped = read_pairs(volume, tmp_path, useful, record, record)
    assert (len(rows), dropped) == (1, {reason: 2})
    assert [line for line in caplog.messages if reason in line] == [
        f"source s: the first row that is left out as {reason} is line 2"
    ]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            {"prompt": "q", "completion": "a"},
            "no column chosen and rejected: .* or use training.method sft; .*'completion'",
        ),
        ({"messages": [ASKED, GOOD]}, "no column chosen and rejected"),
        (
            {"chosen": "a", "rejected": "b"},
            "line 1, column 'chosen': a text, but the source has no column with the prompt",
        ),
        ({"chosen": [GOOD], "rejected": [BAD]}, "an answer, but the source has no column with the prompt"),
        ({"prompt": "other", "chosen": [ASKED, GOOD], "rejected": [ASKED, BAD]}, "does not begin with the prompt"),
        ({"prompt": "q", "chosen": [GOOD, ASKED], "rejected": "b"}, "must have the role assistant"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "system": "be kind"}, "'system' may be part of the rows"),
    ],
)
def test_rows_that_are_no_pairs_are_refused_with_the_fix(
    volume: Path, tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageFailure, match=message):
        read_pairs(volume, tmp_path, record)


def test_pairs_are_refused_by_other_methods_with_the_fix(volume: Path, tmp_path: Path) -> None:
    (volume / "d.jsonl").write_text(lines({"prompt": "q", "chosen": "a", "rejected": "b"}))
    with pytest.raises(
        StageFailure, match=r"WrongColumn: .*pairs of answers, but training\.method is sft: set it to dpo"
    ):
        read("d.jsonl", tmp_path)
    with pytest.raises(StageFailure, match=r"with training\.method sft a row has one answer"):
        read("d.jsonl", tmp_path, prompt="prompt", chosen="chosen", rejected="rejected")
    with pytest.raises(StageFailure, match=r"with training\.method dpo a row is a pair"):
        read_pairs(
            volume, tmp_path, {"prompt": "q", "chosen": "a", "rejected": "b"}, prompt="prompt", completion="chosen"
        )
    assert read("d.jsonl", tmp_path, prompt="prompt", completion="chosen") == [PAIR]


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "completion": "a", "label": False},
        {"prompt": [ASKED], "completion": GOOD, "label": "False"},
        {"messages": [ASKED, GOOD], "label": 0},
        {"conversations": [ASKED, GOOD], "label": 0.0, "score": 3},
    ],
)
def test_every_common_form_of_a_labelled_answer_gives_the_same_row(
    volume: Path, tmp_path: Path, record: dict[str, Any]
) -> None:
    assert read_labelled(volume, tmp_path, record) == [replace(PAIR, label=False)]


def test_labels_in_a_csv_file_are_read_and_their_column_can_be_named(volume: Path, tmp_path: Path) -> None:
    (volume / "d.csv").write_text("q,a,liked,label\nq,a,TRUE,x\nq,b,0,x\n")
    columns = {"prompt": "q", "completion": "a", "label": "liked"}
    rows = read_source(source("d.csv", **columns), "data", tmp_path, "kto").rows
    assert [(row.completion, row.label) for row in rows] == [("a", True), ("b", False)]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"prompt": "q", "completion": "a"}, "no column label beside prompt and completion"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "label": True}, "or dpo .two answers per row"),
        ({"prompt": "q", "completion": "a", "label": 5}, "line 1, column 'label': 5 is not a label: write true"),
        ({"prompt": "q", "completion": "a", "label": None}, "column 'label': an empty cell is not a label"),
        (
            {"messages": [ASKED, GOOD, ASKED], "label": True},
            "line 1: has a label, but its last message is not an answer",
        ),
        ({"prompt": "q", "completion": "a", "label": True, "system": "be kind"}, "'system' may be part of the rows"),
    ],
)
def test_rows_without_a_clear_label_are_refused_with_the_fix(
    volume: Path, tmp_path: Path, record: dict[str, Any], message: str
) -> None:
    with pytest.raises(StageFailure, match=message):
        read_labelled(volume, tmp_path, record)


def test_a_label_is_refused_by_other_methods_and_needed_by_kto(volume: Path, tmp_path: Path) -> None:
    record = {"prompt": "q", "completion": "a", "label": True}
    with pytest.raises(StageFailure, match=r"with training\.method kto a row is a labelled answer"):
        read_labelled(volume, tmp_path, record, prompt="prompt", completion="completion")
    with pytest.raises(StageFailure, match=r"a label, which training\.method sft does not read"):
        read("d.jsonl", tmp_path, prompt="prompt", completion="completion", label="label")


@pytest.mark.parametrize(
    ("manifest", "file", "rows"), [("finetunejob.yaml", "pairs.jsonl", 6), ("labelled.yaml", "labelled.jsonl", 8)]
)
def test_the_examples_of_preferences_have_rows_that_their_jobs_read(
    volume: Path, tmp_path: Path, manifest: str, file: str, rows: int
) -> None:
    examples = Path(__file__).parents[4] / "examples/preference"
    job = FineTuneJob.model_validate(yaml.safe_load((examples / manifest).read_text()))
    shutil.copy(examples / file, volume)
    example = job.spec.data.sources[0].model_copy(update={"uri": f"pvc://c/{file}"})
    found = read_source(example, "data", tmp_path, job.spec.training.method)
    assert (len(found.rows), dict(found.dropped)) == (rows, {})
    assert all(row.rejected or row.label is not None for row in found.rows)

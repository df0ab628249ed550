import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from driftloop.contract.task import FeedbackSource
from driftloop_trainer.prepare.feedback import FeedbackRecord, read_feedback, select

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def record(prompt: str, answer: str | None = "a", *, age: int = 1, user: str = "u", **fields: object) -> FeedbackRecord:
    found = {
        "id": f"{prompt}-{age}",
        "prompt": prompt,
        "completion": "said",
        "rating": "correction",
        "correction": answer,
        "user": user,
        "created": NOW - timedelta(hours=age),
        "expires": NOW + timedelta(days=1),
    }
    return FeedbackRecord.model_validate(found | fields)


def answers(*records: FeedbackRecord, max_rows: int = 100, per_user: int = 100) -> list[tuple[str, str | None]]:
    found = select(records, now=NOW, max_rows=max_rows, max_rows_per_user=per_user)
    return [(row.prompt, row.completion) for row in found.rows]


def test_corrections_and_confirmations_become_rows_and_complaints_do_not() -> None:
    good = record("good", None, rating="positive")
    bad = record("bad", None, rating="negative", age=2)
    assert answers(good, bad, record("fixed", "right", age=3)) == [("good", "said"), ("fixed", "right")]


def test_the_newest_word_on_a_prompt_counts() -> None:
    assert answers(record("Q", "old", age=5), record("q ", "new", age=1)) == [("q ", "new")]


def test_expired_records_are_left_out() -> None:
    assert answers(record("q", expires=NOW)) == []


def test_one_user_cannot_flood_the_data() -> None:
    flood = [record(f"q{n}", age=n + 1, user="loud") for n in range(10)]
    assert answers(*flood, record("other", user="quiet", age=99), per_user=3) == [
        *((f"q{n}", "a") for n in range(3)),
        ("other", "a"),
    ]


def test_the_newest_rows_are_kept_when_there_are_too_many() -> None:
    assert answers(*(record(f"q{n}", age=n + 1) for n in range(9)), max_rows=2) == [("q0", "a"), ("q1", "a")]


def test_segments_are_read_and_a_torn_line_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path))
    folder = tmp_path / "claim" / "uid" / "v1" / "pod-a"
    folder.mkdir(parents=True)
    line = json.dumps(record("q").dump())
    (folder / "0001.jsonl").write_text(line + "\n" + line[:40])
    found = read_feedback(FeedbackSource(uri="pvc://claim/uid"), NOW)
    assert [row.prompt for row in found.rows] == ["q"]
    assert found.skipped == {"unreadable": 1}


def test_a_service_without_feedback_has_no_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path))
    assert read_feedback(FeedbackSource(uri="pvc://claim/none"), NOW).rows == []

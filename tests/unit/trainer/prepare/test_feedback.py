import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from driftloop.contract.task import FeedbackSource
from driftloop_trainer.prepare.feedback import FeedbackRecord, Selected, read_feedback, select

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


def test_an_answer_that_was_cut_off_is_never_trained_on_and_its_correction_is() -> None:
    liked = record("cut", None, rating="positive", partial=True)
    found = select([liked, record("fixed", "right", partial=True)], now=NOW, max_rows=100, max_rows_per_user=100)
    assert [(row.prompt, row.completion) for row in found.rows] == [("fixed", "right")]
    assert found.skipped == {"partialAnswer": 1}


def labelled(*records: FeedbackRecord, max_rows: int = 100) -> tuple[list[tuple[str | None, bool | None]], Any]:
    found = select(records, now=NOW, max_rows=max_rows, max_rows_per_user=100, labelled=True)
    return [(row.completion, row.label) for row in found.rows], found.skipped


def test_with_labels_complaints_and_corrected_answers_become_bad_answers() -> None:
    liked, disliked = record("good", None, rating="positive"), record("bad", None, rating="negative", age=2)
    found = labelled(liked, disliked, record("fixed", "right", age=3))
    assert found == ([("said", True), ("said", False), ("right", True), ("said", False)], {})


def test_a_correction_that_repeats_the_answer_makes_it_a_good_one_alone() -> None:
    assert labelled(record("fixed", "said")) == ([("said", True)], {})


def test_an_answer_that_was_cut_off_is_no_bad_answer_either() -> None:
    cut = record("cut", None, rating="negative", partial=True)
    found = labelled(
        cut, record("fixed", "right", partial=True), record("none", None, rating="negative", completion="")
    )
    assert found == ([("right", True)], {"partialAnswer": 1, "noAnswer": 1})


def test_both_answers_of_a_correction_count_towards_the_limit() -> None:
    assert labelled(record("one", "right"), record("two", "right", age=2), max_rows=3) == (
        [("right", True), ("said", False)],
        {"maxRows": 1},
    )


def test_the_newest_word_on_a_prompt_counts() -> None:
    assert answers(record("Q", "old", age=5), record("q ", "new", age=1)) == [("q ", "new")]


def chat(*messages: dict[str, Any], answer: str = "a", age: int = 1, **fields: Any) -> FeedbackRecord:
    users = [message["content"] for message in messages if message["role"] == "user"]
    return record(users[-1], answer, age=age, messages=messages, **fields)


SYSTEM, YES = {"role": "system", "content": "Be short."}, {"role": "user", "content": "yes"}
BLOCK = ({"role": "user", "content": "my card"}, {"role": "assistant", "content": "Block it?"})
CANCEL = ({"role": "user", "content": "my order"}, {"role": "assistant", "content": "Cancel it?"})


def rows(*records: FeedbackRecord) -> Selected:
    return select(records, now=NOW, max_rows=100, max_rows_per_user=100)


def test_a_correction_keeps_its_conversation_and_its_tools() -> None:
    tools = '[{"type": "function", "function": {"name": "block"}}]'
    [row] = rows(chat(SYSTEM, *BLOCK, YES, answer="blocked", tools=tools)).rows
    assert [(turn.role, turn.content) for turn in row.turns] == [
        ("system", "Be short."),
        ("user", "my card"),
        ("assistant", "Block it?"),
        ("user", "yes"),
        ("assistant", "blocked"),
    ]
    assert row.tools == tools


def test_the_same_word_after_two_conversations_is_two_questions() -> None:
    blocked, cancelled = chat(*BLOCK, YES, answer="blocked"), chat(*CANCEL, YES, answer="cancelled", age=2)
    again = chat(SYSTEM, *BLOCK, YES, answer="of old", age=3)
    found = rows(blocked, cancelled, again)
    assert [row.completion for row in found.rows] == ["blocked", "cancelled"]
    assert found.skipped == {"superseded": 1}


@pytest.mark.parametrize(
    "messages",
    [
        [YES | {"unreadable": "content has a part of type image_url"}],
        [{"role": "user", "content": "rate?"}, {"role": "assistant", "content": ""}, YES],  # a call that got lost
        [{"role": "narrator", "content": "x"}, YES],
        [{"role": "user", "content": "cut \ud83d"}],
    ],
)
def test_a_conversation_that_is_not_all_text_is_counted_and_left_out(messages: list[dict[str, Any]]) -> None:
    found = rows(chat(*messages))
    assert (found.rows, found.skipped) == ([], {"unreadable": 1})


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

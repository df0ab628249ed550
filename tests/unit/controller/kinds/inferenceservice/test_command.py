"""Commands of people: the form of the annotation, and its record on a Deployment."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.kinds.inferenceservice.command import (
    MAX_VALUE,
    Action,
    Command,
    Record,
    parse,
    parse_record,
    recorded,
    remembered,
)
from unit.controller.kinds.inferenceservice.builders import NOW

ADA, BOT = "Ada Lovelace <ada@example.org>", "system:serviceaccount:ci:bot"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("pause 0a1b2c3d4e", Command("pause", "0a1b2c3d4e")),
        (" resume 0a1b2c3d4e by ada ", Command("resume", "0a1b2c3d4e", "ada")),
        (f"promote 0a1b2c3d4e by {ADA}", Command("promote", "0a1b2c3d4e", ADA)),
        (f"abort 0a1b2c3d4e by {BOT}", Command("abort", "0a1b2c3d4e", BOT)),
        ("abort 0a1b2c3d4e at 2026-01-02T03:04:05Z", Command("abort", "0a1b2c3d4e")),
        (f"abort 0a1b2c3d4e at 2026-01-02T03:04:05Z by {ADA}", Command("abort", "0a1b2c3d4e", ADA)),
        ("abort 0a1b2c3d4e at noon by ada", None),
        ("pause", None),
        ("pause  0a1b2c3d4e", None),
        ("stop 0a1b2c3d4e", None),
        ("Pause 0a1b2c3d4e", None),
        ("pause 0a1b2c3d4e by", None),
        ("pause 0a1b2c3d4e ada", None),
        ("pause 0a1b2c3d4e by a\nb", None),
        ("pause 0a1b2c3d4e by " + "a" * 129, None),
        ("", None),
    ],
)  # fmt: skip
def test_the_form_of_a_command(value: str, expected: Command | None) -> None:
    assert parse(value) == expected


@given(st.text(max_size=700))
def test_any_text_has_a_meaning_or_none_and_a_short_memory(text: str) -> None:
    assert parse(text) is None or len(parse(text).revision) <= 63  # type: ignore[union-attr]
    assert len(remembered(text)) <= MAX_VALUE


WHO = st.none() | st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=128)


@given(st.sampled_from(get_args(Action)), st.from_regex("[a-z0-9]{1,63}", fullmatch=True), WHO)
def test_a_record_is_read_as_it_was_written(action: Action, revision: str, by: str | None) -> None:
    value = f"{action} {revision}" + (f" by {by}" if by else "")
    assert parse_record(recorded(value, NOW)) == Record(value, NOW, Command(action, revision, by))


@pytest.mark.parametrize("document", [None, "", "{", "[]", "3", '{"value": "pause a"}', '{"value": 3, "time": "x"}',
                                      '{"value": "go", "time": "2026-01-01T00:00:00Z"}'])  # fmt: skip
def test_a_record_that_cannot_be_read_is_none(document: str | None) -> None:
    assert parse_record(document) is None

"""Augmented rows: the training side's alone, the same for a seed, with the same answers, near no held-out row."""

import re
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import DataStep
from driftloop.contract.text import side
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.augment import Fence, augmented, change, read_templates
from driftloop_trainer.prepare.divide import divide, fenced

PROMPTS = [f"why was the {word} that I ordered last week not delivered to my house {n}?" for n in range(40)
           for word in ("card", "letter", "refund")]  # fmt: skip
ROWS = [Row.answering("data", "requests", prompt, f"label {n // 3 % 5}") for n, prompt in enumerate(PROMPTS)]
DIVIDED = divide(ROWS, "desk", 20, 1.0)
FENCE = Fence(DIVIDED.held_out, 0.85, "desk", 20)


def made(fraction: float = 1.0, seed: int | None = None, templates: tuple[str, ...] = ()) -> list[Row]:
    return augmented(DIVIDED.train, FENCE, DataStep(type="augment", fraction=fraction, seed=seed), templates)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others() -> None:
    assert made() == made()
    assert made() != made(seed=1)
    assert made(seed=0) == made()


def test_the_share_is_the_fields_and_a_larger_one_only_adds() -> None:
    few, many = made(0.25), made(1.5)
    assert 0.1 * len(DIVIDED.train) < len(few) < 0.4 * len(DIVIDED.train)
    assert len(many) > len(DIVIDED.train)
    unfenced = Fence([], 0.85, "desk", 0)
    sets = [
        {row.identity for row in augmented(DIVIDED.train, unfenced, DataStep(type="augment", fraction=fraction), ())}
        for fraction in (0.25, 0.5, 1, 1.5)
    ]
    assert all(smaller <= larger for smaller, larger in pairwise(sets))


def test_none_is_held_out_or_near_a_row_that_is() -> None:
    rows = made(3)
    assert rows
    assert all(side("desk", row.identity, 20) == "train" for row in rows if row.key not in {r.key for r in ROWS})
    assert fenced(rows, DIVIDED.held_out, 0.85) == rows
    assert not {row.key for row in rows} & {row.key for row in DIVIDED.held_out}


def test_they_are_labelled_and_answer_as_their_origin_does() -> None:
    rows = [row for row in made(2) if re.search(r"\d+", row.prompt)]
    answers = {(re.findall(r"\d+", row.prompt)[0], row.completion) for row in ROWS}
    assert {(row.part, row.source) for row in rows} == {("augment", "requests")}
    assert {(re.findall(r"\d+", row.prompt)[0], row.completion) for row in rows} <= answers
    assert len({row.turns for row in rows}) == len(rows)
    assert not {row.turns for row in rows} & {row.turns for row in ROWS}


def test_only_the_last_users_turn_is_changed() -> None:
    history = (Turn("system", "Answer with a label please"), Turn("user", "hello there my friend"),
               Turn("assistant", "how can I help you"))  # fmt: skip
    rows = [Row.answering("data", "s", prompt, "label", history=history) for prompt in PROMPTS]
    found = augmented(rows, Fence([], 0.85, "desk", 0), DataStep(type="augment", fraction=1), ())
    assert found
    assert all(row.turns[:3] == history and row.turns[4] == Turn("assistant", "label") for row in found)


def test_texts_and_rows_without_an_answer_are_left_alone() -> None:
    rows = [Row("data", "s", text="a text to pretrain on"), Row.answering("data", "s", "a question without an answer")]
    assert augmented(rows, FENCE, DataStep(type="augment", fraction=5), ()) == []


@given(st.integers(0, 10_000))
def test_placeholders_numbers_addresses_and_code_stay(seed: int) -> None:
    kept = ["{name}", "4711", "https://example.org/a?b=c", "foo_bar()", "a@b.org", "<b>", "$HOME", "/etc/hosts"]
    prompt = " please look ".join(kept)
    assert [part for part in re.split(r"\s+", change(prompt, Random(seed))) if part in kept] == kept


@given(st.integers(0, 10_000))
def test_code_blocks_stay_as_they_are(seed: int) -> None:
    prompt = "why does this not work\n```\nfor each in rows\n```"
    assert change(prompt, Random(seed)) == prompt


@given(st.text(max_size=60), st.integers(0, 10_000))
def test_any_prompt_may_be_changed(prompt: str, seed: int) -> None:
    changed = change(prompt, Random(seed), ("they say: {prompt}",))
    assert abs(len(changed) - len(prompt)) <= max(15, len(prompt) // 2)


def test_templates_take_the_prompt() -> None:
    rows = made(4, templates=("Hello, {prompt} Thanks!",))
    wrapped = [row.prompt for row in rows if row.prompt.startswith("Hello, ")]
    assert wrapped
    assert all(prompt.removeprefix("Hello, ").removesuffix(" Thanks!") in PROMPTS for prompt in wrapped)


def test_templates_are_read_from_lines_and_from_json_lines() -> None:
    assert read_templates("\ufeffHi: {prompt}\n\n{prompt} please\n", "t.txt") == ["Hi: {prompt}", "{prompt} please"]
    assert read_templates('{"template": "a\\n{prompt}"}\n', "t.jsonl") == ["a\n{prompt}"]
    assert read_templates("a\u2028{prompt}\r\n", "t.txt") == ["a\u2028{prompt}"]


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("good {prompt}\nbad", "t.txt", r"t.txt, line 2: give a template with \{prompt\}"),
        ('{"text": "{prompt}"}', "t.jsonl", 't.jsonl, line 1: give an object with a "template" that has'),
        ("[1", "t.jsonl", "t.jsonl, line 1"),
        (r'{"template": "\ud83d {prompt}"}', "t.jsonl", "t.jsonl, line 1"),
        ("\n", "t.txt", "t.txt: has no template"),
    ],
)
def test_what_is_no_template_is_refused_by_line(content: str, name: str, message: str) -> None:
    with pytest.raises(StageFailure, match=message):
        read_templates(content, name)

"""What many texts share decides nothing, and what only looks like it does."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_trainer.prepare.common import CommonPassages, plain

WORDS = [
    *("my", "your", "card", "money", "bank", "transfer", "lost", "wrong", "yesterday", "twice", "please", "cannot"),
    *("why", "when", "how", "account", "fee", "top", "up"),
]
SENTENCE = (
    "i have been charged twice for the same payment at the supermarket yesterday, please send me back the money that "
    "you took too much as soon as you can"
)


def words(seed: int, count: int) -> str:
    random = Random(seed)
    return " ".join(random.choice(WORDS) + str(random.randrange(10)) * random.randrange(2) for _ in range(count))


def with_typo(seed: int) -> str:
    random = Random(seed)
    place = random.randrange(len(SENTENCE))
    return SENTENCE[:place] + random.choice("qxz") + SENTENCE[place + 1 :]


def varying(texts: list[str]) -> list[str]:
    passages = CommonPassages(texts)
    return [passages.varying(text) for text in texts]


@pytest.mark.parametrize("count", [20, 400, 3000])
def test_under_a_common_instruction_the_message_is_left(count: int) -> None:
    messages = [words(number, 8) for number in range(count)]
    texts = [plain(f"{words(10_000, 400)}\nMessage: {message}\nAnswer with one label.") for message in messages]
    assert [text.strip() for text in varying(texts)] == messages


def test_instructions_of_several_kinds_below_one_head_are_all_left_out() -> None:
    kinds = [words(10_001, 100) + " " + words(10_002 + kind, 200) for kind in range(8)]
    messages = [words(number, 8) for number in range(800)]
    texts = [plain(f"{kinds[number % 8]} | {message}") for number, message in enumerate(messages)]
    assert all(text.endswith(message) for text, message in zip(varying(texts), messages, strict=True))
    assert max(len(text) for text in varying(texts)) < 100


def test_numbers_that_stand_in_a_form_differ_whole() -> None:
    texts = [f"please tell me the status of my order number {n:05d} as soon as you possibly can" for n in range(5000)]
    assert len(set(varying(texts))) == 5000


def test_beginnings_that_many_messages_share_are_theirs() -> None:
    subjects = ["my card", "my account", "our transfer", "a payment"]
    messages = [f"{subjects[n % 4]} is gone {words(n, 3)}" for n in range(400)]
    found = varying([plain(f"{words(10_000, 100)}: {message}") for message in messages])
    assert found == messages


@pytest.mark.parametrize("count", [5, 50, 200, 2000])
def test_copies_of_a_sentence_are_no_form_that_is_filled_in(count: int) -> None:
    texts = [SENTENCE, *(with_typo(number) for number in range(count))]
    assert varying(texts) == texts


def test_a_typo_in_the_instruction_is_no_message() -> None:
    instruction = words(10_000, 200)
    texts = [f"{instruction} | {words(number, 8)}" for number in range(300)]
    passages = CommonPassages(texts)
    assert passages.varying(texts[0].replace(instruction[:300], instruction[:299] + "%")) == passages.varying(texts[0])


@given(st.lists(st.text(max_size=80), max_size=30), st.text(max_size=80))
def test_texts_without_a_common_passage_are_compared_whole(texts: list[str], text: str) -> None:
    distinct = [f"{number}{one}{number}" for number, one in enumerate(texts)]
    assert CommonPassages(distinct[:9]).varying(text) == text


@given(st.lists(st.text(max_size=20), min_size=1, max_size=30))
def test_nothing_is_left_of_no_text(messages: list[str]) -> None:
    texts = [plain(f"{SENTENCE}{message}{SENTENCE}") for message in messages]
    assert all(varying(texts))

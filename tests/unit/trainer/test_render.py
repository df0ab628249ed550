from typing import Any

import pytest

from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.prepare.newmodel import CHAT_TEMPLATE
from driftloop_trainer.prepare.render import Renderer
from driftloop_trainer.prepare.rows import Row, Turn

ROW = Row.answering("data", "s", "where is my card", "card_arrival")


@pytest.fixture
def plain(tokenizer: Any) -> Any:
    """The same tokenizer without a chat template."""
    tokenizer.chat_template = None
    yield tokenizer
    tokenizer.chat_template = CHAT_TEMPLATE


def test_only_the_completion_and_its_end_count_in_the_loss(tokenizer: Any) -> None:
    example = Renderer(tokenizer, "sft", "completion", 64).example(ROW)
    counted = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(example.ids) == "<|user|>where is my card<|assistant|>card_arrival<|end|>"
    assert tokenizer.decode(counted) == "card_arrival<|end|>"
    assert example.trained == len(counted)


def test_the_prompt_is_tokenised_as_serving_will(tokenizer: Any) -> None:
    served = tokenizer.apply_chat_template([{"role": "user", "content": ROW.prompt}], add_generation_prompt=True)
    served_ids = served["input_ids"] if hasattr(served, "keys") else served
    example = Renderer(tokenizer, "sft", "completion", 64).example(ROW)
    assert example.ids[: example.masked] == list(served_ids)


def test_all_tokens_but_the_first_count_when_pretraining(tokenizer: Any) -> None:
    example = Renderer(tokenizer, "pretrain", "completion", 64).example(Row("data", "s", text="a fee"))
    assert tokenizer.decode(example.ids) == "a fee<|end|>"
    assert example.labels == [IGNORED, *example.ids[1:]]


def test_without_a_template_prompt_and_completion_are_concatenated(plain: Any) -> None:
    example = Renderer(plain, "sft", "completion", 64).example(ROW)
    assert plain.decode(example.ids) == "where is my cardcard_arrival<|end|>"
    assert plain.decode(example.ids[example.masked :]) == "card_arrival<|end|>"


def test_earlier_turns_are_rendered_and_masked(tokenizer: Any) -> None:
    row = Row.answering(
        "data",
        "s",
        "and now?",
        "fee",
        history=(Turn("system", "be kind"), Turn("user", "hi"), Turn("assistant", "yes")),
    )
    example = Renderer(tokenizer, "sft", "completion", 64).example(row)
    whole = "<|system|>be kind<|user|>hi<|assistant|>yes<|end|><|user|>and now?<|assistant|>fee<|end|>"
    assert tokenizer.decode(example.ids) == whole
    assert tokenizer.decode(example.ids[example.masked :]) == "fee<|end|>"


@pytest.mark.parametrize(
    "row", [Row.answering("data", "s", "no answer"), Row.answering("data", "s", "p" * 200, "cut off")]
)
def test_rows_without_room_or_answer_have_nothing_to_learn(tokenizer: Any, row: Row) -> None:
    example = Renderer(tokenizer, "sft", "completion", 32).example(row)
    assert example.trained == 0
    assert set(example.labels) == {IGNORED}
    assert len(example.labels) == len(example.ids) <= 32


def test_a_template_that_changes_the_prompt_once_answered_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = "{{ messages | length }}" + CHAT_TEMPLATE
    try:
        with pytest.raises(StageFailure, match="TemplateNotPrefix"):
            Renderer(tokenizer, "sft", "completion", 64).example(ROW)
    finally:
        tokenizer.chat_template = CHAT_TEMPLATE

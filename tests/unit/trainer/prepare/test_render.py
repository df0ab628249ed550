from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from driftloop.api.finetunejob import TrainingSpec
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.prepare.render import Example, Rendered, Renderer, pieces
from driftloop_trainer.prepare.sample import sample
from unit.trainer import templates
from unit.trainer.templates import with_template

ROW = Row.answering("data", "s", "where is my card", "card_arrival", place="line 3")
TALK = Row(
    "data",
    "s",
    (Turn("user", "hi"), Turn("assistant", "yes"), Turn("user", "and now?"), Turn("assistant", "a fee")),
    place="line 4",
)
INSTRUCTED = Row("data", "s", (Turn("system", "be kind"), *TALK.turns))
CALL = '{"tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {}}}]}'
TOOLS = Row(
    "data", "s", (Turn("user", "how?"), Turn("assistant", "", CALL), Turn("tool", "42"), Turn("assistant", "so: 42"))
)


def renderer(tokenizer: Any, context: int | None = None, **training: Any) -> Renderer:
    return Renderer(tokenizer, TrainingSpec.model_validate({"maxLength": 4096} | training), context)


def shown(rendered: Rendered, tokenizer: Any) -> list[str]:
    return [sample(example, tokenizer) for example in rendered.examples]


def test_only_the_completion_and_its_end_count_in_the_loss(tokenizer: Any) -> None:
    (example,) = renderer(tokenizer).render(ROW).examples
    counted = [label for label in example.labels if label != IGNORED]
    assert tokenizer.decode(example.ids) == "<|user|>where is my card<|assistant|>card_arrival<|end|>"
    assert tokenizer.decode(counted) == "card_arrival<|end|>"
    assert example.trained == len(counted)


@pytest.mark.parametrize(
    ("template", "row", "expected", "ends"),
    [
        (
            templates.CHATML,
            INSTRUCTED,
            [
                "<|im_start|>system\nbe kind<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
                "⟦yes<|im_end|>⟧\n<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n⟦a fee<|im_end|>⟧"
            ],
            ["<|im_end|>"],
        ),
        (
            templates.QWEN3,
            TALK,
            [
                "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nyes<|im_end|>⟧",
                "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"
                "<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\n"
                "⟦<think>\n\n</think>\n\na fee<|im_end|>⟧",
            ],
            ["<|im_end|>"],
        ),
        (
            templates.GEMMA,
            TALK,
            [
                "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n⟦yes<end_of_turn>⟧\n"
                "<start_of_turn>user\nand now?<end_of_turn>\n<start_of_turn>model\n⟦a fee<end_of_turn>⟧"
            ],
            ["<end_of_turn>"],
        ),
        (
            templates.MISTRAL,
            INSTRUCTED,
            [
                "<bos>[INST]be kind\n\nhi[/INST]⟦yes<eos>⟧",
                "<bos>[INST]hi[/INST]yes<eos>[INST]be kind\n\nand now?[/INST]⟦a fee<eos>⟧",
            ],
            ["<eos>"],
        ),
        (
            templates.PHI3,
            TALK,
            [
                "<|user|>\nhi<|end|>\n<|assistant|>\n⟦yes<|end|>⟧\n"
                "<|user|>\nand now?<|end|>\n<|assistant|>\n⟦a fee<|end|>⟧"
            ],
            ["<|end|>"],
        ),
        (
            templates.GLM4,
            TALK,
            ["[gMASK]<|user|>\nhi<|assistant|>\n⟦yes<|user|>⟧\nand now?<|assistant|>\n⟦a fee<|user|>⟧"],
            ["<|user|>"],
        ),
        (
            templates.GPT_OSS,
            TOOLS,
            [
                "<|start|>user<|message|>how?<|end|><|start|>assistant⟦ to=find<|message|>{}<|call|>⟧"
                "<|start|>tool<|message|>42<|end|><|start|>assistant⟦<|message|>so: 42<|return|>⟧"
            ],
            ["<|call|>", "<|return|>"],
        ),
        (
            templates.MARKED,
            TALK,
            [
                "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nAnswer: ⟦yes<|im_end|>⟧\n"
                "<|im_start|>user\nand now?<|im_end|>\n<|im_start|>assistant\nAnswer: ⟦a fee<|im_end|>⟧"
            ],
            ["<|im_end|>"],
        ),
        (
            templates.PLAIN,
            TALK,
            [
                "user: hi\n\nassistant:⟦ yes<eos>⟧",
                "user: hi\n\nassistant: yes\n\nuser: and now?\n\nassistant:⟦ a fee<eos>⟧",
            ],
            ["<eos>"],
        ),
    ],
    ids=["chatml", "qwen3", "gemma", "mistral", "phi3", "glm4", "gpt-oss", "marked", "plain"],
)
def test_every_answer_counts_with_the_token_that_ends_it(
    template: str, row: Row, expected: list[str], ends: list[str]
) -> None:
    tokenizer = with_template(template)
    found = renderer(tokenizer)
    rendered = found.render(row)
    assert shown(rendered, tokenizer) == expected
    assert rendered.reshaped == (("split",) if len(expected) > 1 else ())
    assert [tokenizer.decode([token]) for token in found.turn_ends] == ends


@pytest.mark.parametrize(
    ("template", "row"),
    [
        (template, row)
        for template in (templates.CHATML, templates.QWEN3, templates.MISTRAL, templates.GLM4, templates.PLAIN)
        for row in (ROW, TALK, INSTRUCTED)
    ],
)
def test_what_stands_before_an_answer_is_what_serving_sends(template: str, row: Row) -> None:
    tokenizer = with_template(template)
    served = [
        tokenizer(
            tokenizer.apply_chat_template(
                [turn.message() for turn in row.turns[:position]], tokenize=False, add_generation_prompt=True
            ),
            add_special_tokens=False,
        )["input_ids"]
        for position, turn in enumerate(row.turns)
        if turn.role == "assistant"
    ]
    trained = [
        example.ids[:start] for example in renderer(tokenizer).render(row).examples for start, _ in example.spans
    ]
    assert trained == served


def test_an_answer_that_shares_a_token_with_its_prompt_is_tokenised_alone() -> None:
    """Joined, `a` and `b` are one token, which the server never sends."""
    tokenizer = with_template("{% for m in messages %}{{ m.content }}{% endfor %}", ("a", "b"))
    assert len(tokenizer("xab")["input_ids"]) == 2
    rendered = renderer(tokenizer).render(Row.answering("data", "s", "xa", "b"))
    assert shown(rendered, tokenizer) == ["xa⟦b<eos>⟧"]
    assert len(rendered.examples[0].ids) == 4


def test_all_tokens_but_the_first_count_when_pretraining(tokenizer: Any) -> None:
    (example,) = renderer(tokenizer, method="pretrain").render(Row("data", "s", text="a fee")).examples
    assert tokenizer.decode(example.ids) == "a fee<|end|>"
    assert example.labels == [IGNORED, *example.ids[1:]]


def test_all_of_a_conversation_counts_if_asked_for() -> None:
    tokenizer = with_template(templates.GLM4)
    rendered = renderer(tokenizer, lossOn="all").render(TALK)
    assert shown(rendered, tokenizer) == [
        "⟦[gMASK]<|user|>\nhi<|assistant|>\nyes<|user|>\nand now?<|assistant|>\na fee<|user|>⟧"
    ]


def test_a_long_text_is_cut_into_pieces_of_which_every_token_counts_once() -> None:
    tokenizer = with_template(None)
    text = "".join(chr(97 + position % 26) for position in range(100))
    rendered = renderer(tokenizer, method="pretrain", maxLength=16).render(Row("data", "s", text=text))
    assert rendered.reshaped == ("pieces",)
    assert max(len(example.ids) for example in rendered.examples) == 16
    whole = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
    counted = [label for example in rendered.examples for label in example.labels if label != IGNORED]
    assert counted == whole[1:]
    assert all(one.ids[-1] == other.ids[0] for one, other in pairwise(rendered.examples))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 15, 16])
def test_pieces_are_as_few_as_can_be(length: int) -> None:
    found = pieces(list(range(length)), 8)
    assert len(found) == max(1, -(-(length - 1) // 7))
    assert sum(example.trained for example in found) == length - 1


def test_a_row_whose_answer_would_be_cut_is_dropped_and_says_what_it_needs() -> None:
    whole = len(renderer(with_template(templates.CHATML)).render(ROW).examples[0].ids)
    for length, dropped in ((whole, ""), (whole - 1, "tooLong")):
        rendered = renderer(with_template(templates.CHATML), maxLength=length).render(ROW)
        assert (rendered.dropped, rendered.tokens) == (dropped, whole)
    assert renderer(with_template(templates.CHATML), context=whole - 1).render(ROW).dropped == "tooLong"
    assert renderer(with_template(None), maxLength=28).render(ROW).dropped == "tooLong"
    assert renderer(with_template(templates.CHATML), lossOn="all", maxLength=whole - 1).render(ROW).dropped == "tooLong"


def test_the_answers_of_a_conversation_that_fit_are_trained_whole() -> None:
    tokenizer = with_template(templates.CHATML)
    first = renderer(tokenizer).render(Row("data", "s", TALK.turns[:2])).examples[0]
    rendered = renderer(tokenizer, maxLength=len(first.ids) + 3).render(TALK)
    assert rendered.examples == (first,)
    assert rendered.reshaped == ("shortened",)
    assert renderer(tokenizer, maxLength=len(first.ids) - 1).render(TALK).dropped == "tooLong"


@pytest.mark.parametrize(
    "row",
    [
        Row.answering("data", "s", "no answer"),
        Row("data", "s", text="a text"),
        Row("data", "s", (Turn("assistant", "hello, I am a greeting"), Turn("user", "hi"))),
    ],
)
def test_a_row_without_an_answer_has_nothing_to_learn(tokenizer: Any, row: Row) -> None:
    rendered = renderer(tokenizer).render(row)
    assert (rendered.dropped, rendered.examples) == ("masked", ())


def test_an_answer_that_is_nothing_but_its_end_is_not_trained_on() -> None:
    rendered = renderer(with_template(templates.CHATML)).render(Row.answering("data", "s", "hi", "<|im_end|>"))
    assert rendered.dropped == "masked"


def test_without_a_template_prompt_and_completion_are_concatenated() -> None:
    tokenizer = with_template(None)
    assert shown(renderer(tokenizer).render(ROW), tokenizer) == ["where is my card⟦card_arrival<eos>⟧"]
    assert shown(renderer(tokenizer, lossOn="all").render(ROW), tokenizer) == ["⟦where is my cardcard_arrival<eos>⟧"]


@pytest.mark.parametrize(
    "row", [TALK, INSTRUCTED, TOOLS, Row("data", "s", ROW.turns, tools="[{}]"), Row("data", "s", INSTRUCTED.turns[:3])]
)
def test_a_conversation_needs_a_template(row: Row) -> None:
    with pytest.raises(StageFailure, match=r"NoChatTemplate: source s.*chat_template\.jinja") as failure:
        renderer(with_template(None)).render(row)
    assert failure.value.exit_code == 78


def test_a_template_that_changes_the_prompt_once_answered_is_refused() -> None:
    with pytest.raises(StageFailure, match=r"TemplateNotPrefix: source s, line 3: .*'<think>.*' becomes 'card_arrival"):
        renderer(with_template(templates.DEEPSEEK_R1)).render(ROW)


def test_labels_are_the_ids_that_count() -> None:
    example = Example([5, 6, 7, 8, 9], ((0, 2), (3, 4)))
    assert example.labels == [IGNORED, 6, IGNORED, 8, IGNORED]
    assert example.trained == 2


def pair(row: Row, rejected: str) -> Row:
    return replace(row, rejected=Turn("assistant", rejected))


@pytest.mark.parametrize("template", [templates.CHATML, templates.QWEN3, templates.GEMMA, None])
def test_both_answers_of_a_pair_follow_the_same_tokens_and_only_they_count(template: str | None) -> None:
    row, tokenizer = ROW if template is None else TALK, with_template(template)
    one, other = renderer(tokenizer).render(pair(row, "no")).examples
    start = one.spans[0][0]
    assert one.ids[:start] == other.ids[: other.spans[0][0]]
    assert [len(example.spans) for example in (one, other)] == [1, 1]
    counted = [tokenizer.decode(example.ids[start:]) for example in (one, other)]
    assert all(answer in text for text, answer in zip(counted, (row.completion or "", "no"), strict=True))


@pytest.mark.parametrize(
    ("rejected", "length", "reason"),
    [("card_arrival", 4096, "equalAnswers"), ("no" * 40, 100, "tooLong"), ("<|im_end|>", 4096, "masked")],
)
def test_a_pair_with_nothing_to_compare_is_dropped(rejected: str, length: int, reason: str) -> None:
    rendered = renderer(with_template(templates.CHATML), maxLength=length).render(pair(ROW, rejected))
    assert (rendered.dropped, rendered.examples) == (reason, ())

"""What prepare tells of the rows as tokens, and what it refuses before any training."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from driftloop.contract.result import PrepareResult
from driftloop.contract.task import PrepareTask
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import FILE, Dataset, Tokens, read_turn_ends
from driftloop_trainer.models import config_for
from driftloop_trainer.prepare.folder import SAMPLE
from driftloop_trainer.prepare.newmodel import save_new_model
from driftloop_trainer.prepare.stage import prepare
from unit.trainer import templates
from unit.trainer.templates import with_template

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = TINY | {"model_type": "llama", "max_position_embeddings": 512}
MESSAGES = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": "and now?"},
    {"role": "assistant", "content": "a fee"},
]


def prepared(
    volume: Path,
    rows: list[dict[str, Any]],
    template: str | None,
    feedback: dict[str, Any] | None = None,
    **fields: Any,
) -> PrepareResult:
    """Rows as JSON lines through the whole stage, for a base model with this template."""
    tokenizer = with_template(template)
    architecture = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    config = config_for(architecture | fields.pop("architecture", LLAMA))
    save_new_model(config, tokenizer, 0, volume / "base")
    (volume / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"sources": [{"name": "rows", "uri": "pvc://claim/rows.jsonl"}], "steps": [], "heldOutPercent": 0}
    document = {
        "job": "job",
        "jobUid": "uid",
        "family": "family",
        "model": {"uri": "pvc://claim/base"},
        "data": data,
        "storage": "pvc://claim/store",
        "output": "pvc://claim/store/prepared/uid",
        "feedback": feedback,
        "training": fields,
    }
    result = prepare(PrepareTask.model_validate(document))
    assert isinstance(result, PrepareResult)
    return result


def test_fields_of_messages_that_nothing_reads_are_counted_and_named(volume: Path) -> None:
    answer: dict[str, Any] = MESSAGES[1] | {"refusal": "I would rather not", "annotations": []}
    rows = [{"messages": [MESSAGES[0], answer]}, {"messages": MESSAGES[2:]}]
    result = prepared(volume, rows, templates.CHATML)
    assert (result.train_rows, result.reshaped) == (2, {"unreadFields": 1})
    assert "Fields of messages that nothing reads: refusal (1 rows)." in result.notes


def test_a_field_s_name_may_be_no_unicode(volume: Path) -> None:
    result = prepared(volume, [{"messages": [MESSAGES[0], MESSAGES[1] | {"\ud83d" * 40: 1}]}], templates.CHATML)
    assert result.notes == ["Fields of messages that nothing reads: " + 5 * r"\ud83d" + " (1 rows)."]


def folder(volume: Path) -> Path:
    return volume / "store" / "prepared" / "uid"


def test_a_conversation_that_its_template_splits_is_one_row_and_two_sequences(volume: Path) -> None:
    result = prepared(volume, [{"messages": MESSAGES}, {"messages": MESSAGES[:2]}], templates.QWEN3)
    data = Dataset(folder(volume) / FILE)
    assert (result.train_rows, result.sequences, result.reshaped) == (2, 3, {"split": 1})
    assert len(data) == 3
    assert (data.lengths.sum(), data.trained.sum()) == (result.tokens, result.trained_tokens)
    assert data.lengths.max() == result.longest_row_tokens


def test_what_is_dropped_for_its_length_is_counted_and_the_rest_is_trained(volume: Path) -> None:
    rows = [{"prompt": "p" * size, "completion": "c"} for size in (5, 50, 60)]
    result = prepared(volume, [*rows, {"prompt": "none", "completion": None}], templates.CHATML, maxLength=40)
    assert result.train_rows == result.sequences == 1
    assert result.dropped["tooLong"] == 2
    assert result.dropped_rows == sum(result.dropped.values()) == 3


def test_texts_longer_than_max_length_are_all_trained(volume: Path) -> None:
    result = prepared(volume, [{"text": "t" * 100}, {"text": "short"}], None, method="pretrain", maxLength=16)
    assert (result.train_rows, result.sequences, result.dropped_rows) == (2, 8, 0)
    assert result.reshaped == {"pieces": 1}
    assert result.trained_tokens == 100 + 5


def test_if_no_row_fits_the_lengths_and_what_would_do_are_named(volume: Path) -> None:
    rows = [{"prompt": "p" * size, "completion": "c"} for size in (50, 600)]
    with pytest.raises(StageFailure, match="AllRowsTooLong") as failure:
        prepared(volume, rows, None, maxLength=8)
    assert failure.value.message == (
        "none of 2 rows fits into 8 tokens with its answer, and an answer is never cut: they have 52 to 602 tokens, "
        "such as source rows, line 1; set training.maxLength to 512, enough for 1 of them"
    )
    with pytest.raises(StageFailure, match="the model's own context is 512: shorten the rows"):
        prepared(volume, rows[1:], None, maxLength=4096)


def test_if_no_pair_differs_one_is_named(volume: Path) -> None:
    """The template shows both answers as the same tokens."""
    pair = {"prompt": "hi", "chosen": "no", "rejected": "no<|im_end|>"}
    with pytest.raises(StageFailure, match=r"all 2 pairs have the same tokens .* such as source rows, line 1"):
        prepared(volume, [pair, pair | {"prompt": "hello"}], templates.CHATML, method="dpo")


def test_the_first_example_is_kept_for_people_with_what_counts_marked(
    volume: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    prepared(volume, [{"messages": MESSAGES[:2]}], templates.QWEN3)
    shown = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n⟦<think>\n\n</think>\n\nyes<|im_end|>⟧"
    assert (folder(volume) / SAMPLE).read_text() == shown + "\n"
    assert shown in caplog.text


def test_what_clients_of_a_service_wrote_is_in_no_log(volume: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    task = {"uri": "pvc://claim/feedback", "maxRows": 10, "maxRowsPerUser": 10}
    rating = {"id": "1", "prompt": "my secret", "rating": "correction", "correction": "my correction"}
    segment = volume / "feedback" / "v1" / "pod" / "1.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text(json.dumps(rating | {"created": datetime.now(UTC).isoformat()}) + "\n")
    result = prepared(volume, [{"messages": MESSAGES[:2]}], templates.CHATML, feedback=task)
    assert (result.feedback_rows, result.train_rows) == (1, 2)
    assert "hi" in (folder(volume) / SAMPLE).read_text()
    assert "my secret" not in caplog.text + (folder(volume) / SAMPLE).read_text()


def test_a_rating_that_the_template_refuses_is_counted_and_stops_nothing(volume: Path) -> None:
    task = {"uri": "pvc://claim/feedback", "maxRows": 10, "maxRowsPerUser": 10}
    rating = {"id": "1", "prompt": "q", "rating": "correction", "correction": "a", "tools": '[{"name": "rate"}]'}
    segment = volume / "feedback" / "v1" / "pod" / "1.jsonl"
    segment.parent.mkdir(parents=True)
    segment.write_text(json.dumps(rating | {"created": datetime.now(UTC).isoformat()}) + "\n")
    result = prepared(volume, [{"messages": MESSAGES[:2]}], templates.CHATML, feedback=task)
    assert (result.train_rows, result.dropped) == (1, {"feedback.notRendered": 1})


def test_the_tokens_that_end_answers_are_kept_for_the_export(volume: Path) -> None:
    prepared(volume, [{"messages": MESSAGES}], templates.CHATML)
    assert read_turn_ends(folder(volume)) == with_template(None).convert_tokens_to_ids(["<|im_end|>"])


def test_a_failing_template_is_told_with_the_row(volume: Path) -> None:
    rows = [{"messages": MESSAGES}, {"messages": [{"role": "system", "content": "be kind"}, *MESSAGES]}]
    with pytest.raises(StageFailure, match=r"TemplateRefusesRow: source rows, line 2: .*System role not supported"):
        prepared(volume, rows, templates.GEMMA)


def test_packing_is_refused_where_rows_would_see_each_other(volume: Path) -> None:
    bloom = {"model_type": "bloom", "hidden_size": 16, "n_layer": 1, "n_head": 2}
    with pytest.raises(StageFailure, match=r"PackingUnsupported: training\.packing: .*'bloom'"):
        prepared(volume, [{"prompt": "p", "completion": "c"}], None, packing=True, architecture=bloom)
    result = prepared(volume, [{"prompt": "p", "completion": "c"}], None, architecture=bloom)
    (note,) = result.notes
    assert "engine.maxModelLen" in note
    assert result.model.max_position_embeddings == 0


def test_an_engine_that_a_recurrent_model_needs_is_told_before_its_training(volume: Path) -> None:
    mamba = {"model_type": "mamba", "hidden_size": 16, "state_size": 4, "num_hidden_layers": 1}
    result = prepared(volume, [{"prompt": "p", "completion": "c"}], None, architecture=mamba)
    assert any("engine.type vllm" in note for note in result.notes)


def test_a_pair_is_one_row_one_sequence_and_both_its_answers_are_shown(volume: Path) -> None:
    rows = [{"prompt": "hi", "chosen": "yes" + "!" * count, "rejected": "no"} for count in range(3)]
    same = {"prompt": "hi", "chosen": "no", "rejected": "no "}
    result = prepared(volume, [*rows, same], templates.CHATML, method="dpo")
    assert (result.train_rows, result.sequences, result.dropped) == (3, 3, {"equalAnswers": 1})
    data = Dataset(folder(volume) / FILE)
    assert [len(data.segments(index)) for index in range(3)] == [2, 2, 2]
    assert data.trained.tolist() == [len("yes") + count + len("no") + 2 for count in range(3)]
    assert result.longest_row_tokens < data.lengths.max()
    assert data.rows([1]) == ["source rows, line 2"] * 2
    shown = (volume / "store" / "prepared" / "uid" / SAMPLE).read_text()
    assert "⟦yes<|im_end|>⟧" in shown
    assert "⟦no<|im_end|>⟧" in shown


def test_a_labelled_answer_is_one_row_with_the_answer_of_another_question_beside_it(volume: Path) -> None:
    rows = [{"prompt": text, "completion": text + "!", "label": text == "one"} for text in ("one", "two", "three")]
    rows += [{"prompt": "one", "completion": "no", "label": False}, {"prompt": "two", "completion": "", "label": True}]
    result = prepared(volume, rows, templates.CHATML, method="kto")
    assert (result.train_rows, result.sequences, result.dropped) == (4, 4, {"emptyAnswer": 1})
    data = Dataset(folder(volume) / FILE)
    assert data.good.tolist() == [True, False, False, False]
    assert data.rows([1]) == ["source rows, line 2"] * 2
    tokenizer = with_template(templates.CHATML)
    own, others = ([tokenizer.decode(part[part >= 0]) for part in parts] for parts in segments(data))
    assert own == ["one!<|im_end|>", "two!<|im_end|>", "three!<|im_end|>", "no<|im_end|>"]
    assert set(others) < set(own)
    assert all(one != other for one, other in zip(own, others, strict=True))
    assert result.trained_tokens == sum(len(text) + 1 - len("<|im_end|>") for text in own)
    assert result.notes == [
        "1 good and 3 bad answers, which should count alike: set training.desirableWeight to about 3, and the other "
        "weight to 1."
    ]
    assert (folder(volume) / SAMPLE).read_text().startswith("good:\n")


def test_what_is_written_before_it_is_stored_is_on_the_disk_and_not_in_memory(volume: Path) -> None:
    disk = Path(os.environ["DRIFTLOOP_DISK"])
    before = disk.stat().st_mtime_ns
    prepared(volume, [{"prompt": "hi", "completion": "yes"}], templates.CHATML)
    assert disk.stat().st_mtime_ns > before
    assert list(disk.iterdir()) == []


def segments(data: Dataset) -> tuple[list[Tokens], list[Tokens]]:
    """The labels of the first and of the second segment of each sequence. Their prompts are the same."""
    first, second = [], []
    for index in range(len(data)):
        one, other = data.parts(index)
        prompts = [ids[: int((labels >= 0).argmax())].tolist() for ids, labels in (one, other)]
        assert prompts[0] == prompts[1]
        first.append(one[1])
        second.append(other[1])
    return first, second


def test_pairs_that_the_template_makes_equal_are_told(volume: Path) -> None:
    pair = {"prompt": "hi", "chosen": "a\u200b", "rejected": "a"}
    cut = templates.CHATML.replace("m.content", "m.content | replace('\u200b', '')")
    with pytest.raises(StageFailure, match="AllRowsMasked: all 1 pairs have the same tokens"):
        prepared(volume, [pair], cut, method="dpo")


@pytest.mark.parametrize(
    ("adapter", "targets", "shown"),
    [
        ("lora", ["lm_head"], "lm_head"),
        ("lora", ["q_proj", "embed_tokens"], "model.embed_tokens"),
        ("qlora", ["q_proj", "lm_head"], "lm_head"),
        ("osf", ["q_proj", "lm_head"], "lm_head"),
    ],
)
def test_an_adapter_of_tied_embeddings_is_refused_as_no_version_could_have_it(
    volume: Path, adapter: str, targets: list[str], shown: str
) -> None:
    rows = [{"messages": MESSAGES[:2]}]
    fields = {"adapter": {"type": adapter, "targetModules": targets}}
    refusal = rf"UnknownModules: training\.adapter\.targetModules: the weight of {shown} is .* remove {shown}, or"
    with pytest.raises(StageFailure, match=refusal):
        prepared(volume, rows, templates.CHATML, architecture=LLAMA | {"tie_word_embeddings": True}, **fields)


def test_an_adapter_of_an_output_layer_of_its_own_is_trained(volume: Path) -> None:
    fields = {"adapter": {"type": "lora", "targetModules": ["lm_head"]}}
    untied = LLAMA | {"tie_word_embeddings": False}
    assert prepared(volume, [{"messages": MESSAGES[:2]}], templates.CHATML, architecture=untied, **fields).model

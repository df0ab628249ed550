"""From pairs or labelled answers in a file to a served folder: the trained model prefers the good answers."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from driftloop.api.finetunejob import Adapter
from driftloop.contract.task import PrepareTask, TrainTask
from driftloop_trainer.models import config_for, load_model, load_tokenizer
from driftloop_trainer.prepare.newmodel import save_new_model
from driftloop_trainer.prepare.stage import prepare
from driftloop_trainer.train.assignment import Assignment, Outcome
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.worker.worker import work
from unit.trainer import templates
from unit.trainer.conftest import taken_over
from unit.trainer.prepare.test_folder import LLAMA
from unit.trainer.templates import with_template
from unit.trainer.train.worker.test_export import task_document

QUESTIONS = [f"question {number * 7919}" for number in range(12)]
POLITE, RUDE = "gladly", "no way"


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    """This process as the only worker."""
    store = tmp_path / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1, timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()


def training(adapter: str, method: str = "dpo") -> dict[str, Any]:
    return {
        "method": method,
        "adapter": {"type": adapter},
        "trainBatchSize": 4,
        "learningRate": 2e-2,
        "numTrainEpochs": 10,
        "maxLength": 128,
        "saveSteps": 1000,
    }


def rows_for(method: str) -> list[dict[str, Any]]:
    if method == "dpo":
        return [{"prompt": text, "chosen": POLITE, "rejected": RUDE} for text in QUESTIONS]
    labelled = ((POLITE, True), (RUDE, False))
    return [{"prompt": text, "completion": answer, "label": good} for text in QUESTIONS for answer, good in labelled]


def trained(volume: Path, adapter: str, report: Any = lambda _: None, method: str = "dpo") -> Outcome:
    """The outcome of both stages on a random model."""
    tokenizer = with_template(templates.CHATML)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    save_new_model(config_for(ids | LLAMA), tokenizer, 0, volume / "base")
    (volume / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_for(method)))
    common = {"job": "job", "jobUid": "uid", "family": "family", "model": {"uri": "pvc://claim/base"}}
    data = {"sources": [{"name": "rows", "uri": "pvc://claim/rows.jsonl"}], "steps": [], "heldOutPercent": 0}
    folders = {"storage": "pvc://claim/store", "output": "pvc://claim/store/prepared/uid"}
    task = common | folders | {"data": data, "training": training(adapter, method)}
    prepared = prepare(PrepareTask.model_validate(task))
    document = task_document() | {
        "dataUri": prepared.uri,
        "dataDigest": prepared.digest,
        "training": training(adapter, method),
        "gradientAccumulationSteps": 2,
        "perDeviceTrainBatchSize": 2,
        "totalSteps": 30,
    }
    token = taken_over("0000-a").token
    return work(Assignment(TrainTask.model_validate(document), token, None), report)


def log_probability(folder: Path, question: str, answer: str) -> float:
    """How likely a model's answer is, by its folder."""
    tokenizer, model = load_tokenizer(folder, "model"), load_model(folder, Adapter())
    messages = [{"role": "user", "content": question}]
    prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    before, ids = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (prompt, prompt + answer))
    with torch.no_grad():
        scores = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return sum(float(scores[place - 1, ids[place]]) for place in range(len(before), len(ids)))


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_model_trained_on_pairs_prefers_the_chosen_answers(volume: Path, adapter: str) -> None:
    seen: list[Progress] = []
    outcome = trained(volume, adapter, seen.append)
    assert outcome.failure is None

    def preference(folder: Path) -> float:
        return log_probability(folder, "question 5", POLITE) - log_probability(folder, "question 5", RUDE)

    base, (version,) = volume / "base", (volume / "versions" / "uid").iterdir()
    assert preference(version) > preference(base) + 2
    assert seen[0].loss == pytest.approx(0.6931, abs=1e-4)
    assert seen[0].reward == {"accuracy": 0, "margin": pytest.approx(0, abs=1e-5)}
    assert outcome.reward["accuracy"] == 1
    assert outcome.loss < 0.6
    assert "final reward accuracy | 1.0000" in (version / "README.md").read_text()
    assert len(json.loads((volume / "runs" / "uid" / "reference.json").read_text())) == len(QUESTIONS)


def test_a_model_trained_on_labelled_answers_prefers_the_good_ones(volume: Path) -> None:
    seen: list[Progress] = []
    outcome = trained(volume, "none", seen.append, "kto")
    assert outcome.failure is None
    base, (version,) = volume / "base", (volume / "versions" / "uid").iterdir()
    for question in QUESTIONS[:2]:
        assert log_probability(version, question, POLITE) > log_probability(base, question, POLITE) + 0.5
        assert log_probability(version, question, RUDE) < log_probability(base, question, RUDE) - 0.5
    assert seen[0].loss == pytest.approx(0.5, abs=1e-4)
    assert outcome.reward["accuracy"] > 0.8
    assert "labelled answers, beta 0.1" in (version / "README.md").read_text()
    assert len(json.loads((volume / "runs" / "uid" / "reference.json").read_text())) == 2 * 2 * len(QUESTIONS)

"""From pairs in a file to a served folder: a model that was trained on them prefers the chosen answers."""

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


def training(adapter: str) -> dict[str, Any]:
    return {
        "method": "dpo",
        "adapter": {"type": adapter},
        "trainBatchSize": 4,
        "learningRate": 2e-2,
        "numTrainEpochs": 10,
        "maxLength": 128,
        "saveSteps": 1000,
    }


def trained(volume: Path, adapter: str, report: Any = lambda _: None) -> Outcome:
    """The outcome of both stages on a random model."""
    tokenizer = with_template(templates.CHATML)
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
    save_new_model(config_for(ids | LLAMA), tokenizer, 0, volume / "base")
    pairs = ({"prompt": text, "chosen": POLITE, "rejected": RUDE} for text in QUESTIONS)
    (volume / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    common = {"job": "job", "jobUid": "uid", "family": "family", "model": {"uri": "pvc://claim/base"}}
    data = {"sources": [{"name": "pairs", "uri": "pvc://claim/pairs.jsonl"}], "steps": [], "heldOutPercent": 0}
    folders = {"storage": "pvc://claim/store", "output": "pvc://claim/store/prepared/uid"}
    task = common | folders | {"data": data, "training": training(adapter)}
    prepared = prepare(PrepareTask.model_validate(task))
    document = task_document() | {
        "dataUri": prepared.uri,
        "dataDigest": prepared.digest,
        "training": training(adapter),
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

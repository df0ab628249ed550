"""The evaluation's client against the pod that serves: both sides of the API contract are ours."""

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from driftloop.api.suite import SuiteSpec
from driftloop.contract.names import VOLUMES_ENV
from driftloop.contract.task import AnswerTask, Baseline, EvaluateTask, EvaluationArm
from driftloop_trainer.data.items import Question
from driftloop_trainer.evaluate import stage
from driftloop_trainer.evaluate.checks import CHECKS, check_api
from driftloop_trainer.evaluate.client import Arm, Generation
from driftloop_trainer.evaluate.likelihood import weigh
from unit.server.processes import Process

DIGEST = "sha256:" + "a" * 64


def arm_of(proxy: Process) -> EvaluationArm:
    ready = f"http://127.0.0.1:{proxy.ports['metrics']}/readyz"
    return EvaluationArm(version="v1", digest=DIGEST, url=proxy.url, ready_url=ready)


async def test_the_served_pod_keeps_every_promise_that_the_evaluation_checks(proxy: Process) -> None:
    async with aiohttp.ClientSession() as session:
        arm = Arm(arm_of(proxy), session, concurrency=4)
        await arm.wait_ready(30)
        await arm.get_to_know()
        found = await check_api(arm, ["my card has not arrived yet", "refund, please!"], max_tokens=12)
    assert arm.route == "chat"
    assert (found.failed, found.uncertain) == ([], [])
    assert found.passed == len(CHECKS)


async def test_a_version_asked_twice_is_compared_with_itself(
    proxy: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stable version's answers are kept by one stage and paired by the next; ours says where it cut one."""
    monkeypatch.setenv(VOLUMES_ENV, str(tmp_path))
    items = [{"prompt": f"where is parcel {i}", "completion": "track_parcel"} for i in range(8)]
    (tmp_path / "claim").mkdir()
    (tmp_path / "claim" / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    arm, suite = arm_of(proxy), SuiteSpec(name="old", kind="retention", uri="pvc://claim/items.jsonl", max_tokens=3)
    first = AnswerTask(family="desk", arm=arm, suites=[suite], output="pvc://claim/answers")
    kept = await asyncio.to_thread(stage.answer, first)
    against = Baseline(version="v1", digest=DIGEST, answers=kept.uri, answers_digest=kept.digest)
    second = EvaluateTask(family="desk", candidate=arm, baseline=against, suites=[suite], output="pvc://claim/found")
    (found,) = (await asyncio.to_thread(stage.evaluate, second)).suites
    assert (found.items, found.gained, found.lost, found.errors) == (8, 0, 0, 0)
    assert found.cut == found.baseline_cut is not None


async def test_the_served_model_s_likelihood_of_an_answer_is_that_of_the_model_itself(
    proxy: Process, model_folder: Path
) -> None:
    """Behind the chat template, without the token that ends the answer."""
    async with aiohttp.ClientSession() as session:
        arm = Arm(arm_of(proxy), session, concurrency=4)
        await arm.wait_ready(30)
        await arm.get_to_know()
        found = await weigh(arm, Question("my card"), "refund, please!", Generation(8))
    model: Any = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    start, answer = (tokenizer(text)["input_ids"] for text in ("<|user|>my card\n<|assistant|>", "refund, please!"))
    with torch.inference_mode():
        table = model(torch.tensor([start + answer])).logits[0].log_softmax(dim=-1)
    expected = [float(table[len(start) - 1 + n, token]) for n, token in enumerate(answer)]
    assert found.likelihood is not None
    assert found.likelihood.tokens == len(answer)
    assert found.likelihood.logprob == pytest.approx(sum(expected) / len(expected), abs=1e-3)

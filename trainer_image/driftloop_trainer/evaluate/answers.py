"""Collects the answers of one served model, writes them to a folder, and reads them again for a comparison."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from driftloop.api.metric import Judge
from driftloop.api.suite import SuiteSpec
from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasoning import Tags, split
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Item, Question, load_items
from driftloop_trainer.evaluate.client import Answer, Arm, Generation, Likelihood
from driftloop_trainer.evaluate.contract import Conduct
from driftloop_trainer.evaluate.gathered import gathered
from driftloop_trainer.evaluate.judge.client import refuse_cost
from driftloop_trainer.evaluate.likelihood import weigh
from driftloop_trainer.metrics.scoring import Scorer, scorer

log = logging.getLogger(__name__)

_ANSWERS, _ARM = "answers.jsonl", "arm.json"
_PROGRESS = 200  # items between two log lines


@dataclass(frozen=True)
class Suite:
    """The items of a suite, how their answers are generated, and what these are measured by."""

    name: str
    items: Sequence[Item]
    generation: Generation
    scorer: Scorer
    judge: Judge | None = None


def load_suites(
    specs: Sequence[SuiteSpec], max_tokens: int, scratch: Path, reasoning_tags: Tags | None = None
) -> list[Suite]:
    """Load and verify the items of all suites. `max_tokens` is the default of suites.

    Raises the same as load_items, and StageFailure if a metric can't be used.
    """
    suites = []
    for spec in specs:
        folder, metric = scratch / "suites" / spec.name, scorer(spec)
        folder.mkdir(parents=True)
        items = [_without_thoughts(item, reasoning_tags) for item in load_items(spec, folder)]
        for item in items:
            metric.check(item.completion, item.id)
        refuse_cost(spec, len(items))
        suites.append(
            Suite(
                spec.name,
                items,
                replace(generation_of(spec, max_tokens), reasoning_tags=reasoning_tags),
                metric,
                spec.metric.judge,
            )
        )
    return suites


def _without_thoughts(item: Item, tags: Tags | None) -> Item:
    """The item with a completion as an answer is scored, without thoughts. One that ends within them is kept."""
    return replace(item, completion=split(item.completion, tags)[1] or item.completion) if tags else item


def generation_of(suite: SuiteSpec, max_tokens: int) -> Generation:
    """How the suite's answers are generated."""
    return Generation(
        max_tokens=suite.max_tokens or max_tokens,
        system_prompt=suite.system_prompt or "",
        stop=tuple(suite.stop),
        temperature=suite.temperature,
        top_p=suite.top_p,
        seed=suite.seed or 0 if suite.temperature > 0 else None,
    )


def longest_answer(suites: Sequence[Suite], max_tokens: int) -> int:
    """The longest answer, in tokens, that any suite or API check allows."""
    return max([max_tokens, *(suite.generation.max_tokens for suite in suites)])


class Once:
    """Asks an arm each question once, even if several suites have it: temperature 0 and seeds give the same answer."""

    def __init__(self, arm: Arm, must_answer: bool = False) -> None:
        self.arm = arm
        self._must_answer = must_answer
        self._answers: dict[tuple[Question, Generation, str | None], asyncio.Future[Answer]] = {}

    async def ask(self, item: Item, suite: Suite) -> Answer:
        """The answer to an item. Raises StageFailure like Arm.ask, and if `must_answer` also when the model fails."""
        weighed = item.completion if suite.scorer.is_likelihood else None
        key = (item.question, suite.generation, weighed)
        if key not in self._answers:
            self._answers[key] = asyncio.ensure_future(self._request(*key))
        answer = await self._answers[key]
        if self._must_answer and answer.is_missing and (answer.status >= 500 or answer.status == 429):
            message = f"version {self.arm.version}, which is compared with, could not answer: {answer.error}"
            raise StageFailure(StageReason.BASELINE_FAILED, message, EXIT_RETRY)
        return answer

    async def _request(self, question: Question, generation: Generation, weighed: str | None) -> Answer:
        if weighed is None:
            return await self.arm.ask(question, generation)
        return await weigh(self.arm, question, weighed, generation)

    async def ask_all(self, suite: Suite) -> list[Answer]:
        """The answers to a suite, in the order of its items."""
        done = 0

        async def ask(item: Item) -> Answer:
            nonlocal done
            answer = await self.ask(item, suite)
            done += 1
            if done % _PROGRESS == 0 or done == len(suite.items):
                log.info("%s: %d/%d items", suite.name, done, len(suite.items))
            return answer

        return await gathered(ask(item) for item in suite.items)


def about(arm: Arm) -> dict[str, Any]:
    """The fields that describe an arm in the evidence."""
    return {"engine": arm.engine, "route": arm.route, "maxModelLen": arm.max_model_len}


def write_answers(folder: Path, arm: Arm, answered: Mapping[str, tuple[Suite, Sequence[Answer]]]) -> None:
    """Write the answers of an arm into `folder`, one per line, and a description of the arm."""
    with (folder / _ANSWERS).open("w") as stream:
        for name, (suite, answers) in answered.items():
            for item, answer in zip(suite.items, answers, strict=True):
                line: dict[str, Any] = {"suite": name, "id": item.id, "question": asdict(item.question)}
                line |= {"text": answer.text, "error": answer.error, "status": answer.status, "cut": answer.cut}
                line |= {"likelihood": asdict(answer.likelihood)} if answer.likelihood else {}
                stream.write(json.dumps(line, ensure_ascii=False) + "\n")
    (folder / _ARM).write_text(json.dumps({"version": arm.version, "digest": arm.digest, **about(arm)}) + "\n")


class KeptAnswers:
    """Reads what `write_answers` wrote."""

    def __init__(self, folder: Path) -> None:
        arm = json.loads((folder / _ARM).read_text())
        self.digest = str(arm["digest"])
        self.conduct = Conduct.read(folder)
        self.about = {key: arm[key] for key in ("engine", "route", "maxModelLen")}
        self._answers: defaultdict[str, list[tuple[Question, Answer]]] = defaultdict(list)
        with (folder / _ANSWERS).open() as stream:
            for row in map(json.loads, stream):
                weighed = Likelihood(**row["likelihood"]) if "likelihood" in row else None
                answer = Answer(row["text"], row["error"], row["status"], row["cut"], weighed)
                self._answers[row["suite"]].append((Question(**row["question"]), answer))

    def of(self, suite: Suite) -> list[Answer] | None:
        """The answers to a suite, in the order of its items; None if the arm was not asked this suite.

        Raises StageFailure if the arm was asked different items.
        """
        answered = self._answers.get(suite.name)
        if answered is None:
            return None
        if [question for question, _ in answered] != [item.question for item in suite.items]:
            message = (
                f"suite {suite.name}: the version that is compared with was asked different items, as the suite's file "
                "has changed since. Set the suite's digest to detect such changes"
            )
            raise StageFailure(StageReason.ANSWERS_MISMATCH, message)
        return [answer for _, answer in answered]

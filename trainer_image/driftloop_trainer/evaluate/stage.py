"""The stage: wait, ask, compare, leave evidence."""

import asyncio
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.result import EvaluateResult, encode
from driftloop.contract.storage import publish
from driftloop.contract.task import EvaluateTask
from driftloop.contract.text import normalise
from driftloop_trainer.evaluate.checks import check_api
from driftloop_trainer.evaluate.client import Answer, Arm, Question
from driftloop_trainer.evaluate.items import Item, load_items
from driftloop_trainer.evaluate.statistics import Judged, suite_result
from driftloop_trainer.failure import StageFailure
from driftloop_trainer.folders import finished, record

_PROGRESS = 200  # items between two lines of progress


@dataclass(frozen=True)
class Asked:
    """One item with both answers."""

    item: Item
    candidate: Answer
    baseline: Answer | None

    def judged(self) -> Judged:
        return Judged(
            cluster=self.item.cluster,
            candidate=is_right(self.item, self.candidate),
            baseline=is_right(self.item, self.baseline) if self.baseline else None,
            answered=self.candidate.text is not None,
        )

    def evidence(self, suite: str) -> dict[str, Any]:
        question = self.item.question
        item = {"suite": suite, "id": self.item.id, "cluster": self.item.cluster, "prompt": question.prompt}
        item |= {"messages": json.loads(question.messages)} if question.messages else {}
        found = item | {"expected": self.item.completion, "candidate": _said(self.item, self.candidate)}
        return found | ({"baseline": _said(self.item, self.baseline)} if self.baseline else {})


class Once:
    """An arm that is asked each question once, however many suites have it: at temperature 0 its answer is the same."""

    def __init__(self, arm: Arm, max_tokens: int) -> None:
        self.arm = arm
        self._max_tokens = max_tokens
        self._answers: dict[Question, asyncio.Future[Answer]] = {}

    async def ask(self, question: Question) -> Answer:
        """Its answer. Raises StageFailure as Arm.ask does."""
        if question not in self._answers:
            self._answers[question] = asyncio.ensure_future(self.arm.ask(question, self._max_tokens))
        return await self._answers[question]


def is_right(item: Item, answer: Answer) -> bool:
    """Exact match of the normalised texts. No answer is a wrong one."""
    return answer.text is not None and normalise(answer.text) == normalise(item.completion)


def evaluate(task: EvaluateTask) -> EvaluateResult:
    """Ask every arm every item, and leave every question and answer at `task.output`.

    Run again with the same models and items it gives the result it left. Raises StageFailure: bad items are never
    retried; an arm that can't be reached is, and is never taken for an arm that there is none of.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        earlier = finished(task.output, scratch / "earlier")
        if isinstance(earlier, EvaluateResult) and _is_about(earlier, task):
            print(f"evaluated already: {task.output}", flush=True)
            return earlier
        suites = {suite.name: load_items(suite, _folder(scratch, suite.name)) for suite in task.suites}
        evidence = _folder(scratch, "evidence")
        result = asyncio.run(_ask_everything(task, suites, evidence))
        manifest = publish(evidence, task.output)
        result = result.model_copy(update={"digest": manifest.digest})
        record(task.output, encode(result))
        return result


def _is_about(result: EvaluateResult, task: EvaluateTask) -> bool:
    """A baseline that was replaced in the meantime makes another evaluation."""
    baseline = task.baseline.digest if task.baseline else None
    same_models = (result.candidate_digest, result.baseline_digest) == (task.candidate.digest, baseline)
    return same_models and [suite.name for suite in result.suites] == [suite.name for suite in task.suites]


async def _ask_everything(task: EvaluateTask, suites: dict[str, list[Item]], folder: Path) -> EvaluateResult:
    async with aiohttp.ClientSession() as session:
        candidate = Arm(task.candidate, session, task.concurrency)
        baseline = Arm(task.baseline, session, task.concurrency) if task.baseline else None
        arms = [arm for arm in (candidate, baseline) if arm]
        await asyncio.gather(*(arm.wait_ready(task.startup_timeout_seconds) for arm in arms))
        await asyncio.gather(*(arm.get_to_know() for arm in arms))
        prompts = [item.question.prompt for items in suites.values() for item in items] or ["Hello"]
        api = await check_api(candidate, prompts, task.max_tokens)
        print(f"API: {api.passed} checks passed, failed: {api.failed}", flush=True)
        results = []
        once, baseline_once = Once(candidate, task.max_tokens), Once(baseline, task.max_tokens) if baseline else None
        with (folder / "items.jsonl").open("w") as stream:
            for name, items in suites.items():
                asked = await _ask_suite(name, items, once, baseline_once)
                stream.writelines(json.dumps(entry.evidence(name), ensure_ascii=False) + "\n" for entry in asked)
                results.append(suite_result(name, [entry.judged() for entry in asked]))
    result = EvaluateResult(
        uri=task.output,
        digest=task.candidate.digest,  # replaced by the evidence's own once it is written
        candidate_digest=task.candidate.digest,
        baseline_digest=task.baseline.digest if task.baseline else None,
        api=api,
        suites=results,
        engine=candidate.engine,
    )
    found = {
        "task": task.dump(),
        "arms": {
            arm.version: {"engine": arm.engine, "route": arm.route, "maxModelLen": arm.max_model_len} for arm in arms
        },
        "generation": {"temperature": 0, "max_tokens": task.max_tokens},
        "result": {key: value for key, value in result.dump().items() if key not in ("uri", "digest")},
    }
    (folder / "result.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    return result


async def _ask_suite(name: str, items: Sequence[Item], candidate: Once, baseline: Once | None) -> list[Asked]:
    done = 0

    async def ask(item: Item) -> Asked:
        nonlocal done
        answers = await asyncio.gather(*(arm.ask(item.question) for arm in (candidate, baseline) if arm))
        done += 1
        if done % _PROGRESS == 0 or done == len(items):
            print(f"{name}: {done}/{len(items)} items", flush=True)
        return Asked(item, answers[0], _known(answers[1], baseline.arm) if baseline else None)

    try:
        async with asyncio.TaskGroup() as group:  # the first failure cancels what is still waiting
            tasks = [group.create_task(ask(item)) for item in items]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _known(answer: Answer, baseline: Arm) -> Answer:
    """A baseline that breaks down must not make the candidate look better: then the comparison is not made."""
    if answer.text is None and (answer.status >= 500 or answer.status == 429):
        message = f"the stable version {baseline.version} could not answer: {answer.error}"
        raise StageFailure("BaselineFailed", message, EXIT_RETRY)
    return answer


def _said(item: Item, answer: Answer) -> dict[str, Any]:
    if answer.text is None:
        return {"error": answer.error, "right": False}
    return {"text": answer.text, "right": is_right(item, answer)}


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder

"""The answers of one served model: asked, kept in a folder, and found again to be compared with."""

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from driftloop.api.base import SuiteSpec
from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Item, Question, load_items
from driftloop_trainer.evaluate.client import Answer, Arm

log = logging.getLogger(__name__)

_ANSWERS, _ARM = "answers.jsonl", "arm.json"
_PROGRESS = 200  # items between two lines of progress


@dataclass(frozen=True)
class Suite:
    """The items of a suite, and how long their answers may be."""

    name: str
    items: Sequence[Item]
    max_tokens: int


def load_suites(specs: Sequence[SuiteSpec], max_tokens: int, scratch: Path) -> list[Suite]:
    """The suites with their items, verified. `max_tokens` counts where a suite gives none. Raises as load_items."""
    suites = []
    for spec in specs:
        folder = scratch / "suites" / spec.name
        folder.mkdir(parents=True)
        suites.append(Suite(spec.name, load_items(spec, folder), spec.max_tokens or max_tokens))
    return suites


def longest_answer(suites: Sequence[Suite], max_tokens: int) -> int:
    """Tokens of the longest answer that any suite, or a check of the API, lets a model give."""
    return max([max_tokens, *(suite.max_tokens for suite in suites)])


class Once:
    """An arm that is asked each item once, however many suites have it: at temperature 0 its answer is the same."""

    def __init__(self, arm: Arm, must_answer: bool = False) -> None:
        self.arm = arm
        self._must_answer = must_answer
        self._answers: dict[tuple[Question, int], asyncio.Future[Answer]] = {}

    async def ask(self, item: Item, max_tokens: int) -> Answer:
        """Its answer. Raises StageFailure as Arm.ask does; where it must answer, also when it breaks down."""
        key = (item.question, max_tokens)
        if key not in self._answers:
            self._answers[key] = asyncio.ensure_future(self.arm.ask(item.question, max_tokens))
        answer = await self._answers[key]
        if self._must_answer and answer.text is None and (answer.status >= 500 or answer.status == 429):
            message = f"the stable version {self.arm.version} could not answer: {answer.error}"
            raise StageFailure(StageReason.BASELINE_FAILED, message, EXIT_RETRY)
        return answer

    async def ask_all(self, suite: Suite) -> list[Answer]:
        """Its answers to a suite, in the order of the items."""
        done = 0

        async def ask(item: Item) -> Answer:
            nonlocal done
            answer = await self.ask(item, suite.max_tokens)
            done += 1
            if done % _PROGRESS == 0 or done == len(suite.items):
                log.info("%s: %d/%d items", suite.name, done, len(suite.items))
            return answer

        try:
            async with asyncio.TaskGroup() as group:  # the first failure cancels what is still waiting
                tasks = [group.create_task(ask(item)) for item in suite.items]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]


def about(arm: Arm) -> dict[str, Any]:
    """What evidence says of an arm."""
    return {"engine": arm.engine, "route": arm.route, "maxModelLen": arm.max_model_len}


def write_answers(folder: Path, arm: Arm, answered: Mapping[str, tuple[Suite, Sequence[Answer]]]) -> None:
    """Leave the answers of an arm in `folder`, a line each, and what the arm is."""
    with (folder / _ANSWERS).open("w") as stream:
        for name, (suite, answers) in answered.items():
            for item, answer in zip(suite.items, answers, strict=True):
                found: dict[str, Any] = {"suite": name, "id": item.id, "question": asdict(item.question)}
                found |= {"text": answer.text, "error": answer.error, "status": answer.status, "cut": answer.cut}
                stream.write(json.dumps(found, ensure_ascii=False) + "\n")
    (folder / _ARM).write_text(json.dumps({"version": arm.version, "digest": arm.digest, **about(arm)}) + "\n")


class KeptAnswers:
    """What `write_answers` left."""

    def __init__(self, folder: Path) -> None:
        arm = json.loads((folder / _ARM).read_text())
        self.digest = str(arm["digest"])
        self.about = {key: arm[key] for key in ("engine", "route", "maxModelLen")}
        self._answers: defaultdict[str, list[tuple[Question, Answer]]] = defaultdict(list)
        with (folder / _ANSWERS).open() as stream:
            for row in map(json.loads, stream):
                answer = Answer(row["text"], row["error"], row["status"], row["cut"])
                self._answers[row["suite"]].append((Question(**row["question"]), answer))

    def of(self, suite: Suite) -> list[Answer] | None:
        """The answers to a suite, in the order of its items; None where it was not asked.

        Raises StageFailure when it was asked other items.
        """
        found = self._answers.get(suite.name)
        if found is None:
            return None
        if [question for question, _ in found] != [item.question for item in suite.items]:
            message = (
                f"suite {suite.name}: the stable version was asked other items than these: the file was changed "
                "meanwhile. Give the suite the digest of its file"
            )
            raise StageFailure(StageReason.ANSWERS_MISMATCH, message)
        return [answer for _, answer in found]

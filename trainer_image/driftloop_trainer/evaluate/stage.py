"""Two stages, each with one served model in its pod: ask a version to compare with; ask the candidate and compare."""

import asyncio
import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp

from driftloop.api.suite import SuiteSpec
from driftloop.contract.looks import alpha_of
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import AnswerResult, EvaluateResult, SuiteResult, encode, fitting_evaluation
from driftloop.contract.task import AnswerTask, Baseline, EvaluateTask, EvaluationArm
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import publish
from driftloop_trainer.data.items import Item
from driftloop_trainer.data.requests import Request, load_requests
from driftloop_trainer.evaluate.answers import (
    KeptAnswers,
    Once,
    Suite,
    about,
    load_suites,
    longest_answer,
    write_answers,
)
from driftloop_trainer.evaluate.checks import check_api
from driftloop_trainer.evaluate.client import Answer, Arm
from driftloop_trainer.evaluate.contract import FEATURES, conduct_of, with_conduct
from driftloop_trainer.evaluate.judge.verdicts import Pair
from driftloop_trainer.evaluate.judging import Judgement, Judging, judge_keys
from driftloop_trainer.evaluate.statistics import Judged, anchor_result, suite_result
from driftloop_trainer.folders import finished, open_folder, record

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ItemAnswers:
    """An item of a suite with its answers."""

    suite: Suite
    item: Item
    candidate: Answer
    baseline: Answer | None
    anchor: Answer | None = None
    pair: Pair | None = None  # a judge's verdicts

    def against_anchor(self) -> Judged:
        """The item's scores with the anchor as baseline."""
        anchor = self._score(self.anchor) if self.anchor else None
        return Judged(cluster=self.item.cluster, candidate=self._score(self.candidate), baseline=anchor)

    def judged(self) -> Judged:
        candidate, baseline = self._scores()
        return Judged(
            cluster=self.item.cluster,
            candidate=candidate,
            baseline=baseline,
            answered=not self.candidate.is_missing,
            cut=self.candidate.cut,
            baseline_cut=bool(self.baseline and self.baseline.cut),
        )

    def evidence(self) -> dict[str, Any]:
        question = self.item.question
        item = {"suite": self.suite.name, "id": self.item.id, "cluster": self.item.cluster, "prompt": question.prompt}
        item |= {"messages": json.loads(question.messages)} if question.messages else {}
        candidate, baseline = self._scores()
        evidence = item | {"expected": self.item.completion, "candidate": self._scored(self.candidate, candidate)}
        evidence |= {"verdicts": asdict(self.pair)} if self.pair else {}
        evidence |= {"anchor": self._scored(self.anchor, self._score(self.anchor))} if self.anchor else {}
        if self.baseline is None or baseline is None:
            return evidence
        return evidence | {"baseline": self._scored(self.baseline, baseline)}

    def _scores(self) -> tuple[float, float | None]:
        """The scores of both versions. A judge's difference is divided among them."""
        if self.pair is not None:
            return (1 + self.pair.difference) / 2, (1 - self.pair.difference) / 2
        return self._score(self.candidate), self._score(self.baseline) if self.baseline else None

    def _score(self, answer: Answer) -> float:
        if answer.likelihood is not None:
            return answer.likelihood.score
        return self.suite.scorer.score(self.item, answer.text)

    def _scored(self, answer: Answer, score: float) -> dict[str, Any]:
        fields = {"score": round(score, 6)} if self.suite.scorer.is_graded else {"right": score == 1}
        if answer.likelihood is not None:
            return asdict(answer.likelihood) | fields
        if answer.text is None:
            return {"error": answer.error} | fields
        return {"text": answer.text} | fields | ({"cut": True} if answer.cut else {})


def answer(task: AnswerTask) -> AnswerResult:
    """Ask the served model every item, and write its answers to `task.output`. A second run returns the first result.

    Raises StageFailure: without a retry for bad items; with a retry if the model can't be reached or fails, as its
    missing answers would make the candidate look better.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        earlier = finished(task.output, AnswerResult, scratch / "earlier")
        if earlier and earlier.model_digest == task.arm.digest:
            log.info("already answered: %s", task.output)
            return earlier
        suites = load_suites(task.suites, task.max_tokens, scratch, task.reasoning_tags)
        folder = _folder(scratch, "answers")
        requests = load_requests(task.contract, scratch) if task.contract else []
        arm = asyncio.run(_answer_all(task, suites, requests, folder))
        manifest = publish(folder, task.output)
        result = AnswerResult(
            uri=task.output,
            digest=manifest.digest,
            model_digest=task.arm.digest,
            items=sum(len(suite.items) for suite in suites),
            engine=arm.engine,
        )
        record(task.output, encode(result))
        return result


def evaluate(task: EvaluateTask) -> EvaluateResult:
    """Ask the candidate every item, compare, and write all questions and answers to `task.output`.

    A second run with the same models and suites returns the first result. Raises StageFailure: without a retry for bad
    items, with a retry if the model can't be reached. Raises ManifestError if the baseline's answers were changed.
    """
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        earlier = finished(task.output, EvaluateResult, scratch / "earlier")
        if earlier and _is_about(earlier, task):
            log.info("already evaluated: %s", task.output)
            return earlier
        suites = load_suites(task.suites, task.max_tokens, scratch, task.reasoning_tags)
        requests = load_requests(task.contract, scratch) if task.contract else []
        kept = Kept(
            _kept_answers(task.baseline, scratch / "answers") if task.baseline else None,
            _kept_answers(task.anchor, scratch / "anchor") if task.anchor else None,
            frozenset(suite.name for suite in task.suites if suite.total_delta is not None),
        )
        evidence = _folder(scratch, "evidence")
        result = asyncio.run(_compare_all(task, suites, requests, kept, evidence))
        manifest = publish(evidence, task.output)
        result = fitting_evaluation(result.model_copy(update={"digest": manifest.digest}))
        record(task.output, encode(result))
        return result


def _is_about(result: EvaluateResult, task: EvaluateTask) -> bool:
    """Whether the result has the same models, suites and looks. The baseline may have been replaced since."""
    expected = (task.candidate.digest, *(other.digest if other else None for other in (task.baseline, task.anchor)))
    same_models = (result.candidate_digest, result.baseline_digest, result.anchor_digest) == expected
    looks = [(suite.name, task.looks.get(suite.name, 1), _anchor_look(suite, task)) for suite in task.suites]
    found = [
        (suite.name, suite.look or 1, (suite.anchor.look or 1) if suite.anchor else None) for suite in result.suites
    ]
    return same_models and found == looks


def _anchor_look(suite: SuiteSpec, task: EvaluateTask) -> int | None:
    """The number of this look with the anchor; None if the suite is not compared with it."""
    return task.anchor_looks.get(suite.name, 1) if task.anchor and suite.total_delta is not None else None


@dataclass(frozen=True)
class Kept:
    """The answers of other versions, which the candidate's are compared with."""

    stable: KeptAnswers | None
    anchor: KeptAnswers | None = None  # if it is the stable version, also to suites without totalDelta
    anchored: frozenset[str] = frozenset()  # names of the suites with totalDelta

    def of_stable(self, suite: Suite) -> list[Answer] | None:
        """The stable version's answers to a suite; None if it was not asked."""
        return self.stable.of(suite) if self.stable else None

    def of_anchor(self, suite: Suite) -> list[Answer] | None:
        """The anchor's answers to a suite with totalDelta; None for others, and if it was not asked."""
        return self.anchor.of(suite) if self.anchor and suite.name in self.anchored else None


def _kept_answers(baseline: Baseline, scratch: Path) -> KeptAnswers | None:
    """The verified answers of a version, from the stage that asked it."""
    if baseline.answers is None:
        return None
    folder = open_folder(baseline.answers, scratch, baseline.answers_digest)
    kept = KeptAnswers(folder)
    if kept.digest != baseline.digest:
        message = f"{baseline.answers} has answers of {kept.digest}, not of {baseline.version} ({baseline.digest})"
        raise StageFailure(StageReason.ANSWERS_MISMATCH, message)
    return kept


async def _answer_all(task: AnswerTask, suites: Sequence[Suite], requests: Sequence[Request], folder: Path) -> Arm:
    async with aiohttp.ClientSession() as session:
        arm = _client(task.arm, session, task, suites)
        await arm.wait_ready(task.startup_timeout_seconds)
        await arm.get_to_know()
        once = Once(arm, must_answer=True)  # missing answers would make the candidate look better
        answered = {suite.name: (suite, await once.ask_all(suite)) for suite in suites}
        conduct = await conduct_of(arm, requests, FEATURES, task.startup_timeout_seconds)
    write_answers(folder, arm, answered)
    conduct.write(folder)
    return arm


async def _compare_all(
    task: EvaluateTask,
    suites: Sequence[Suite],
    requests: Sequence[Request],
    kept: Kept,
    folder: Path,
) -> EvaluateResult:
    async with aiohttp.ClientSession() as session:
        candidate = _client(task.candidate, session, task, suites)
        await candidate.wait_ready(task.startup_timeout_seconds)
        await candidate.get_to_know()
        prompts = [item.question.prompt for suite in suites for item in suite.items] or ["Hello"]
        stable = kept.stable.conduct if kept.stable else None
        features = FEATURES if stable else []
        conduct = await conduct_of(candidate, requests, features, task.startup_timeout_seconds)
        api = with_conduct(await check_api(candidate, prompts, task.max_tokens), conduct, stable)
        conduct.write(folder)
        log.info("API: %d checks passed, failed: %s, uncertain: %s", api.passed, api.failed, api.uncertain)
        once = Once(candidate)
        pairs = [_paired(suite, await once.ask_all(suite), kept) for suite in suites]
        judgements = await _judge_all(task, session, suites, pairs, folder)
    results = _write_items(folder, task, suites, pairs, judgements)
    result = EvaluateResult(
        uri=task.output,
        digest=task.candidate.digest,  # replaced by the evidence's digest once it is written
        candidate_digest=task.candidate.digest,
        baseline_digest=task.baseline.digest if task.baseline else None,
        anchor_digest=task.anchor.digest if task.anchor else None,
        api=api,
        suites=results,
        engine=candidate.engine,
    )
    arms = {candidate.version: about(candidate)}
    for other, answers in ((task.baseline, kept.stable), (task.anchor, kept.anchor)):
        if other and answers:
            arms[other.version] = answers.about
    document = {
        "task": task.dump(),
        "arms": arms,
        "generation": {suite.name: asdict(suite.generation) for suite in suites},
        "judges": {name: judgement.about for name, judgement in judgements.items()},
        "result": {key: value for key, value in result.dump().items() if key not in ("uri", "digest")},
    }
    (folder / "result.json").write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return result


async def _judge_all(
    task: EvaluateTask,
    session: aiohttp.ClientSession,
    suites: Sequence[Suite],
    pairs: Sequence[Sequence[ItemAnswers]],
    folder: Path,
) -> dict[str, Judgement]:
    """The judgements of the suites with a judge, if there is a baseline. The replies become a part of the evidence."""
    if task.baseline is None or not any(suite.judge for suite in suites):
        return {}
    judging = Judging(task.output, session, task.concurrency, task.request_timeout_seconds)
    keys = judge_keys(task.suites)
    judgements = {}
    for suite, answered in zip(suites, pairs, strict=True):
        if suite.judge is not None:
            alpha = alpha_of(task.looks.get(suite.name, 1))
            judgements[suite.name] = await judging.judge(suite.judge, keys[suite.name], answered, alpha)
    (folder / "judgements.jsonl").write_text(judging.replies())
    return judgements


def _write_items(
    folder: Path,
    task: EvaluateTask,
    suites: Sequence[Suite],
    pairs: Sequence[Sequence[ItemAnswers]],
    judgements: Mapping[str, Judgement],
) -> list[SuiteResult]:
    """Write one line per item, and return the results of the suites."""
    results = []
    with (folder / "items.jsonl").open("w") as stream:
        for suite, answered in zip(suites, pairs, strict=True):
            judgement = judgements.get(suite.name)
            if judgement is not None:
                with_verdicts = zip(answered, judgement.pairs, strict=True)
                answered = [replace(entry, pair=pair) for entry, pair in with_verdicts]
            stream.writelines(json.dumps(entry.evidence(), ensure_ascii=False) + "\n" for entry in answered)
            unjudged = suite.judge is not None and judgement is None  # there is nothing to compare with
            judged = [] if unjudged else [entry.judged() for entry in answered]
            trust = judgement.trust if judgement else None
            look = task.looks.get(suite.name, 1)
            result = suite_result(suite.name, judged, suite.scorer.is_graded, trust, look)
            anchored = [entry.against_anchor() for entry in answered if entry.anchor]
            found = anchor_result(anchored, suite.scorer.is_graded, task.anchor_looks.get(suite.name, 1))
            results.append(result.model_copy(update={"anchor": found}))
    return results


def _client(
    arm: EvaluationArm, session: aiohttp.ClientSession, task: AnswerTask | EvaluateTask, suites: Sequence[Suite]
) -> Arm:
    longest = longest_answer(suites, task.max_tokens)
    return Arm(arm, session, task.concurrency, longest, task.request_timeout_seconds)


def _paired(suite: Suite, candidate: Sequence[Answer], kept: Kept) -> list[ItemAnswers]:
    nothing = [None] * len(candidate)
    answered = zip(
        suite.items, candidate, kept.of_stable(suite) or nothing, kept.of_anchor(suite) or nothing, strict=True
    )
    pairs = [ItemAnswers(suite, *each) for each in answered]
    for pair in pairs:
        _refuse_other_tokens(pair)
    return pairs


def _refuse_other_tokens(pair: ItemAnswers) -> None:
    """Raise StageFailure if the versions have different tokenizers: then their probabilities of a token differ, too."""
    one = pair.candidate.likelihood
    for name, answer in (("stable version", pair.baseline), ("anchor", pair.anchor)):
        other = answer.likelihood if answer else None
        if one and other and one.tokens != other.tokens:
            raise StageFailure(
                StageReason.BAD_METRIC,
                f"suite {pair.suite.name}: item {pair.item.id}: its completion has {one.tokens} tokens, and "
                f"{other.tokens} with the {name}'s tokenizer or template: use another metric than logprob",
            )


def _folder(scratch: Path, name: str) -> Path:
    folder = scratch / name
    folder.mkdir()
    return folder

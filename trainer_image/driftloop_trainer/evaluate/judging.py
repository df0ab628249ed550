"""Lets a judge compare the answers of two versions to the items of a suite."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from driftloop.api.metric import Judge
from driftloop.api.suite import SuiteSpec
from driftloop.contract.names import JUDGE_KEY_ENV
from driftloop.contract.text import normalise
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError, read_text, write_text
from driftloop_trainer.data.items import Item
from driftloop_trainer.evaluate.client import Answer
from driftloop_trainer.evaluate.gathered import gathered
from driftloop_trainer.evaluate.judge.client import JudgeClient, Replies
from driftloop_trainer.evaluate.judge.prompts import messages, prompt_hash, verdict
from driftloop_trainer.evaluate.judge.verdicts import EQUAL, Pair, Trust, result, trusted

log = logging.getLogger(__name__)

_FILE = "judgements.jsonl"
_EVERY = 100  # items between two copies of the replies in storage


class Answered(Protocol):
    """An item with both versions' answers."""

    @property
    def item(self) -> Item: ...
    @property
    def candidate(self) -> Answer: ...
    @property
    def baseline(self) -> Answer | None: ...


@dataclass(frozen=True)
class Judgement:
    """A suite's verdicts, in the order of its items, and how far they can be trusted."""

    pairs: Sequence[Pair]
    trust: Trust
    about: dict[str, Any]  # for the evidence


def judge_keys(suites: Sequence[SuiteSpec]) -> dict[str, str]:
    """The API keys of the suites' judges, from the environment, by suite."""
    return {suite.name: os.environ.get(JUDGE_KEY_ENV.format(n), "") for n, suite in enumerate(suites)}


class Judging:
    """Asks judges, and keeps their replies in storage beside `output`, so that another try asks only what is new."""

    def __init__(self, output: str, session: aiohttp.ClientSession, concurrency: int, seconds: float) -> None:
        parent = output.rstrip("/").rpartition("/")[0]
        self._uri = join(parent, _FILE)
        self._replies = Replies.loads(read_text(self._uri) or "")
        self._session, self._concurrency, self._seconds = session, concurrency, seconds

    async def judge(self, judge: Judge, key: str, answered: Sequence[Answered], alpha: float) -> Judgement:
        """Compare all answers. `alpha` is the probability with which a bound of their difference may be wrong.

        Raises StageFailure if the judge refuses or fails.
        """
        client = JudgeClient(judge, key, self._session, self._replies, self._concurrency, self._seconds)
        pairs: list[Pair] = []
        try:
            for start in range(0, len(answered), _EVERY):
                part = answered[start : start + _EVERY]
                pairs += await gathered([_compare(client, judge, entry) for entry in part])
                self._keep()
                log.info("judged %d/%d items with %d requests", len(pairs), len(answered), client.requests)
        except StageFailure:
            self._keep()
            raise
        trust = trusted(pairs, [entry.item.cluster for entry in answered], alpha)
        return Judgement(pairs, trust, _about(judge, pairs, trust, client.requests))

    def replies(self) -> str:
        """All replies, for the evidence."""
        return self._replies.dumps()

    def _keep(self) -> None:
        try:
            write_text(self._uri, self._replies.dumps())
        except StorageError as error:
            log.warning("the judge's replies can't be kept: %s", error)


async def _compare(client: JudgeClient, judge: Judge, answered: Answered) -> Pair:
    """Both orders. Equal and missing answers need no judge."""
    candidate, baseline = answered.candidate.text, answered.baseline.text if answered.baseline else None
    if candidate is None or baseline is None:
        lost, won = candidate is None and baseline is not None, candidate is not None and baseline is None
        return Pair(int(won) - int(lost), int(won) - int(lost), asked=False)
    if normalise(candidate) == normalise(baseline):
        return EQUAL
    first = verdict(await client.ask(messages(judge, answered.item, candidate, baseline)))
    second = verdict(await client.ask(messages(judge, answered.item, baseline, candidate)))
    return Pair(result(first, "A"), result(second, "B"))


def _about(judge: Judge, pairs: Sequence[Pair], trust: Trust, requests: int) -> dict[str, Any]:
    asked = [pair for pair in pairs if pair.asked]
    return {
        "url": judge.url,
        "model": judge.model,
        "prompt": prompt_hash(judge),
        "requests": requests,
        "judged": len(asked),
        "equal": sum(pair == EQUAL for pair in pairs),
        "contradictions": sum(pair.first * pair.second < 0 for pair in asked),
        "reliability": round(trust.reliability, 4),
    }

import aiohttp
import pytest

from driftloop.api.metric import Judge
from driftloop.api.suite import SuiteSpec
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_RETRY
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Item, Question
from driftloop_trainer.evaluate.judge import client
from driftloop_trainer.evaluate.judge.client import JudgeClient, Replies, refuse_cost
from driftloop_trainer.evaluate.judge.prompts import messages, verdict
from unit.trainer.evaluate.umpire import Umpire

ITEM = Item("1", Question("where?"), "here", "1", "1")


@pytest.fixture(autouse=True)
def without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF", 0.001)


async def asked(umpire: Umpire, key: str = "", times: int = 1, max_requests: int = 100) -> tuple[list[str], Replies]:
    """The replies to the same comparison, asked `times` times."""
    replies = Replies()
    async with umpire.serving() as url, aiohttp.ClientSession() as session:
        judge = Judge(url=url, model="big", max_requests=max_requests)
        found = JudgeClient(judge, key, session, replies, concurrency=2, seconds=5)
        return [await found.ask(messages(judge, ITEM, "here", "there")) for _ in range(times)], replies


async def test_the_judge_is_asked_once_and_its_reply_is_kept() -> None:
    umpire = Umpire()
    found, replies = await asked(umpire, times=3)
    assert [verdict(reply) for reply in found] == ["A"] * 3
    assert len(umpire.asked) == 1
    assert Replies.loads(replies.dumps()) == replies


@pytest.mark.parametrize("text", ["", "{", '{"key": 1}\n', "[]\n"])
def test_a_broken_file_of_replies_has_none(text: str) -> None:
    assert Replies.loads(text).kept == {}


async def test_passing_failures_are_tried_again() -> None:
    found, _ = await asked(Umpire(statuses=[429, 503, 500]))
    assert verdict(found[0]) == "A"


async def test_a_judge_that_stays_overloaded_is_tried_again_later() -> None:
    with pytest.raises(StageFailure, match=r"the judge big at http.* answered 429: not now") as failure:
        await asked(Umpire(statuses=[429] * 100))
    assert (failure.value.reason, failure.value.exit_code) == ("JudgeFailed", EXIT_RETRY)


async def test_a_wrong_key_is_told_at_once() -> None:
    with pytest.raises(StageFailure, match="answered 401: wrong key") as failure:
        await asked(Umpire(key="secret"), key="guess")
    assert (failure.value.reason, failure.value.exit_code) == ("JudgeRefused", EXIT_BAD_INPUT)
    found, _ = await asked(Umpire(key="secret"), key="secret")
    assert verdict(found[0]) == "A"


async def test_a_key_is_not_sent_to_another_host_that_the_judge_names() -> None:
    other = Umpire(prefers="A")
    async with other.serving() as elsewhere:
        umpire = Umpire(moved_to=f"{elsewhere}/chat/completions")
        with pytest.raises(StageFailure, match="answered 307") as failure:
            await asked(umpire, key="secret")
    assert failure.value.reason == "JudgeRefused"
    assert other.asked == []


async def test_no_more_requests_are_sent_than_allowed_whatever_the_judge_answers() -> None:
    umpire = Umpire(statuses=[500] * 100)
    with pytest.raises(StageFailure, match="maxRequests = 3: raise it"):
        await asked(umpire, max_requests=3)
    assert len(umpire.asked) == 3


def test_a_suite_that_needs_more_requests_than_allowed_is_refused_beforehand() -> None:
    judge = Judge(url="https://judge.example.org/v1", model="big", max_requests=99)
    suite = SuiteSpec.model_validate(
        {"name": "s", "kind": "target", "items": "data", "metric": {"type": "judge", "judge": judge.dump()}}
    )
    refuse_cost(suite, 49)
    with pytest.raises(StageFailure, match="BadMetric: suite s: 50 items need 100 requests"):
        refuse_cost(suite, 50)

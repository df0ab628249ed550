"""What a pod tells about its requests: only words that stored prompts have, and only when it is asked rightly."""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from driftloop.contract.names import TOPICS_PATH
from driftloop.contract.topics import TopicsReport
from driftloop_server.proxy.topics import CONSENTED, PAUSE, STORED, Topics

OLD = [f"where is {thing} number {colour}" for thing in ("card", "parcel", "bill") for colour in "abcdefghij"]
NEW = [f"the {thing} of my zebra {colour}" for thing in ("stripe", "saddle", "stable") for colour in "klmnopqrst"]


class Pod:
    """A pod that was asked old questions, and new ones since `change`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.topics = Topics(lambda: self.now)
        self.count(OLD * 4)
        self.change = datetime.now(UTC)
        self.count([*OLD, *NEW])

    def count(self, texts: Iterable[str]) -> None:
        for number, text in enumerate(texts):
            self.topics.count(text, f"user {number}")

    def store(self, texts: Iterable[str], *, users: int = 100, after: float = 1.0) -> None:
        for number, text in enumerate(texts):
            self.topics.consented(
                self.change + timedelta(seconds=after), text, f"user {number % users}", f"resp-{number}"
            )


@pytest.fixture
def pod() -> Pod:
    return Pod()


@pytest.fixture
async def client(pod: Pod) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    app = web.Application()
    app.router.add_get(TOPICS_PATH, pod.topics.get)
    async with TestClient(TestServer(app)) as client:
        yield client


async def told(client: TestClient[web.Request, web.Application], pod: Pod) -> TopicsReport:
    pod.now += PAUSE
    question = {"since": pod.change.isoformat(), "together": "1"}
    async with client.get(TOPICS_PATH, params=question) as answer:
        assert answer.status == 200
        return TopicsReport.model_validate(await answer.json())


Client = TestClient[web.Request, web.Application]


async def test_words_of_stored_prompts_are_named_with_the_latest_ratings_about_them(pod: Pod, client: Client) -> None:
    pod.store(NEW[:20])
    report = await told(client, pod)
    assert (report.before, report.since, report.grown) == (120, 60, 1)
    (topic,) = report.topics
    assert any("zebra" in term for term in topic.terms)
    assert (topic.before, topic.since, topic.requests) == ("0.0000", "0.5000", 30)
    assert topic.rows == ["resp-19", "resp-18", "resp-17"]


async def test_an_answer_that_was_rated_twice_is_one_example(pod: Pod, client: Client) -> None:
    for _ in range(2):
        pod.store(NEW[:2])
    (topic,) = (await told(client, pod)).topics
    assert topic.rows == ["resp-1", "resp-0"]


async def test_words_of_no_stored_prompt_are_not_named_but_counted(pod: Pod, client: Client) -> None:
    pod.store(OLD)
    report = await told(client, pod)
    assert (report.grown, report.topics) == (1, [])


@pytest.mark.parametrize(("texts", "users", "named"), [(CONSENTED, 9, 1), (CONSENTED - 1, 9, 0), (9, 1, 0)])
async def test_what_one_user_agreed_to_store_is_not_named(
    pod: Pod, client: Client, texts: int, users: int, named: int
) -> None:
    pod.store(NEW[:texts], users=users)
    assert len((await told(client, pod)).topics) == named


async def test_ratings_from_before_the_change_name_words_and_are_no_examples(pod: Pod, client: Client) -> None:
    pod.store(NEW[:20], after=-1.0)
    (topic,) = (await told(client, pod)).topics
    assert topic.rows == []


async def test_few_requests_and_nothing_new_are_told_apart(pod: Pod, client: Client) -> None:
    pod.change = datetime.now(UTC)
    pod.count(OLD[:19])
    assert (await told(client, pod)).grown is None
    pod.count(OLD[19:])
    assert (await told(client, pod)).grown == 0


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"since": "2026-03-01T12:00:00+00:00"},
        {"since": "2026-03-01T12:00:00", "together": "1"},
        {"since": "yesterday", "together": "1"},
        *({"since": "2026-03-01T12:00:00+00:00", "together": together} for together in ("0.5", "nan", "inf", "x")),
    ],
)
async def test_a_wrong_question_is_refused(pod: Pod, client: Client, question: dict[str, str]) -> None:
    async with client.get(TOPICS_PATH, params=question) as answer:
        assert answer.status == 400


async def test_questions_one_after_another_wait(pod: Pod, client: Client) -> None:
    await told(client, pod)
    question = {"since": pod.change.isoformat(), "together": "1"}
    async with client.get(TOPICS_PATH, params=question) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "6")
    await told(client, pod)


def test_stored_ratings_are_bounded(pod: Pod) -> None:
    pod.store(f"text {number}" for number in range(STORED + 10))
    assert len(pod.topics._stored) == STORED

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from driftloop.contract.manifest import Manifest
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_RETRY, VOLUMES_ENV
from driftloop.contract.result import EvaluateResult, encode
from driftloop.contract.task import EvaluateTask
from driftloop_trainer.evaluate import client, stage
from driftloop_trainer.failure import StageFailure
from unit.trainer.evaluate.answerer import Answerer, serving

CANDIDATE, STABLE = "sha256:" + "a" * 64, "sha256:" + "b" * 64
RIGHT = {f"where is parcel {i}": f"track_parcel_{i % 7}" for i in range(40)}


@pytest.fixture(autouse=True)
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A claim with one suite; back-off without the waiting."""
    monkeypatch.setenv(VOLUMES_ENV, str(tmp_path))
    monkeypatch.setattr(client, "BACKOFF", 0.001)
    monkeypatch.setattr(client, "READY_POLL", 0.01)
    claim = tmp_path / "claim"
    claim.mkdir()
    rows = [{"id": str(i), "prompt": p, "completion": c, "cluster": str(i)} for i, (p, c) in enumerate(RIGHT.items())]
    (claim / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return claim


async def run(candidate: Answerer, stable: Answerer | None = None, **fields: object) -> EvaluateResult:
    """The stage against servers on real sockets; it runs in a thread, as it has a loop of its own."""
    async with serving(candidate, "v2", CANDIDATE) as arm:
        task = {
            "family": "desk",
            "candidate": arm,
            "suites": [{"name": "old", "kind": "retention", "uri": "pvc://claim/items.jsonl"}],
            "startup_timeout_seconds": 5,
            "output": "pvc://claim/evaluations/1",
        }
        if stable is None:
            return await asyncio.to_thread(stage.evaluate, EvaluateTask.model_validate(task | fields))
        async with serving(stable, "v1", STABLE) as other:
            task |= {"baseline": other}
            return await asyncio.to_thread(stage.evaluate, EvaluateTask.model_validate(task | fields))


def wrong(*numbers: int) -> Mapping[str, str]:
    return RIGHT | {f"where is parcel {i}": "lost_parcel" for i in numbers}


async def test_a_conversation_is_asked_whole_and_kept_as_evidence(claim: Path) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "where is parcel 3"}]
    row = {"messages": messages, "completion": RIGHT["where is parcel 3"]}
    (claim / "items.jsonl").write_text(json.dumps(row) + "\n")
    answerer = Answerer(RIGHT)
    assert (await run(answerer)).suites[0].correct == 1
    assert messages in answerer.conversations
    evidence = (claim / "evaluations" / "1" / "items.jsonl").read_text()
    assert json.loads(evidence)["messages"] == messages


async def test_a_conversation_needs_a_chat_template(claim: Path) -> None:
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "where is parcel 3"}]
    (claim / "items.jsonl").write_text(json.dumps({"messages": messages, "completion": "x"}) + "\n")
    with pytest.raises(StageFailure, match="v2 has no chat template") as failure:
        await run(Answerer(RIGHT, template=False))
    assert failure.value.exit_code == EXIT_BAD_INPUT


async def test_both_arms_answer_the_same_items_and_are_counted_in_pairs() -> None:
    result = await run(Answerer(wrong(1, 2)), Answerer(wrong(2, 3, 4)))
    (suite,) = result.suites
    assert (suite.items, suite.correct, suite.baseline_correct) == (40, 38, 37)
    assert (suite.gained, suite.lost, suite.errors) == (2, 1, 0)
    assert (result.candidate_digest, result.baseline_digest) == (CANDIDATE, STABLE)
    assert result.api.failed == []
    assert result.engine == "answerer"
    encode(result)


async def test_the_evidence_holds_every_answer_under_the_result_s_digest(claim: Path) -> None:
    result = await run(Answerer(wrong(1)), Answerer(RIGHT))
    folder = claim / "evaluations/1"
    manifest = Manifest.read(folder)
    manifest.verify(folder, result.digest)
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    (lost,) = [row for row in rows if not row["candidate"]["right"]]
    assert lost["prompt"] == "where is parcel 1"
    assert lost["candidate"]["text"] == "lost_parcel"
    assert lost["baseline"]["right"]
    assert json.loads((folder / "result.json").read_text())["arms"]["v1"]["route"] == "chat"


async def test_an_item_of_several_suites_is_asked_once_and_counted_in_each() -> None:
    items = {"uri": "pvc://claim/items.jsonl"}
    suites = [items | {"name": "old", "kind": "retention"}, items | {"name": "floor", "kind": "floor", "minimum": 0.5}]
    alone, shared, stable = Answerer(RIGHT), Answerer(wrong(1)), Answerer(wrong(2))
    await run(alone, output="pvc://claim/evaluations/alone")
    result = await run(shared, stable, suites=suites)
    assert [(suite.correct, suite.baseline_correct) for suite in result.suites] == [(39, 39), (39, 39)]
    assert len(shared.asked) <= len(alone.asked) + 1  # the checks of the API draw other prompts
    assert {stable.asked.count(prompt) for prompt in RIGHT} == {1}


async def test_run_again_it_asks_nothing_and_says_the_same() -> None:
    first = await run(Answerer(RIGHT))
    silent = Answerer({})
    assert await run(silent) == first
    assert silent.asked == []


async def test_a_replaced_baseline_is_another_evaluation() -> None:
    await run(Answerer(RIGHT))
    assert (await run(Answerer(RIGHT), Answerer(RIGHT))).baseline_digest == STABLE


async def test_without_a_chat_template_completions_are_asked() -> None:
    result = await run(Answerer(RIGHT, template=False))
    assert result.suites[0].correct == 40
    assert result.api.failed == []


async def test_no_more_than_the_given_requests_run_at_once() -> None:
    candidate = Answerer(RIGHT)
    await run(candidate, concurrency=3)
    assert candidate.most_at_once == 3


async def test_it_waits_until_the_pod_is_ready_and_tries_transient_failures_again() -> None:
    result = await run(Answerer(RIGHT, ready_after=3, statuses=[503, 429, 500]))
    assert result.suites[0].correct == 40
    assert result.suites[0].errors == 0


async def test_a_candidate_that_refuses_an_item_is_wrong_there(claim: Path) -> None:
    with (claim / "items.jsonl").open("a") as stream:
        stream.write(json.dumps({"prompt": "please refuse me", "completion": "anything"}) + "\n")
    (suite,) = (await run(Answerer(RIGHT))).suites
    assert (suite.items, suite.correct, suite.errors) == (41, 40, 1)


async def test_a_baseline_that_breaks_down_is_no_evidence_for_the_candidate() -> None:
    with pytest.raises(StageFailure) as failure:
        await run(Answerer(RIGHT), Answerer(RIGHT, statuses=[500] * 4000))
    assert failure.value.reason == "BaselineFailed"
    assert failure.value.exit_code == EXIT_RETRY


async def test_a_baseline_that_is_not_there_is_not_no_baseline() -> None:
    gone = {"version": "v1", "digest": STABLE, "url": "http://127.0.0.1:1", "ready_url": "http://127.0.0.1:1/readyz"}
    with pytest.raises(StageFailure, match="v1 was not ready") as failure:
        await run(Answerer(RIGHT), startup_timeout_seconds=1, baseline=gone)
    assert failure.value.exit_code == EXIT_RETRY


async def test_items_are_checked_before_anything_is_asked(claim: Path) -> None:
    (claim / "items.jsonl").write_text("")
    candidate = Answerer(RIGHT)
    with pytest.raises(StageFailure) as failure:
        await run(candidate)
    assert failure.value.exit_code == EXIT_BAD_INPUT
    assert candidate.asked == []


async def test_without_suites_the_api_is_still_checked() -> None:
    result = await run(Answerer(RIGHT), suites=[])
    assert result.suites == []
    assert result.api.passed == 7


@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("models", "models"),
        ("usage", "usage"),
        ("unsteady", "temperature 0"),
        ("stream", "stream"),
        ("stop", "stop"),
        ("overflow", "overflow"),
        ("malformed", "malformed JSON"),
    ],
)
async def test_each_broken_promise_of_the_api_is_found_and_named(fault: str, check: str) -> None:
    result = await run(Answerer(RIGHT, faults=frozenset({fault})))
    assert check in [failed.partition(":")[0] for failed in result.api.failed]

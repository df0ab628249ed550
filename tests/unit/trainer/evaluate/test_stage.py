import asyncio
import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from driftloop.contract.manifest import Manifest, ManifestError
from driftloop.contract.names import EXIT_BAD_INPUT, EXIT_RETRY, JUDGE_KEY_ENV, VOLUMES_ENV
from driftloop.contract.result import AnswerResult, EvaluateResult, encode
from driftloop.contract.task import AnswerTask, EvaluateTask
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.evaluate import client, stage
from unit.trainer.evaluate.answerer import Answerer, serving
from unit.trainer.evaluate.umpire import Umpire

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


SUITES = [{"name": "old", "kind": "retention", "uri": "pvc://claim/items.jsonl"}]


async def answers(stable: Answerer, **fields: object) -> AnswerResult:
    """The stage that asks the stable version."""
    async with serving(stable, "v1", STABLE) as arm:
        task = {"family": "desk", "arm": arm, "suites": SUITES, "startup_timeout_seconds": 5}
        task |= {"output": "pvc://claim/evaluations/baseline"} | fields
        return await asyncio.to_thread(stage.answer, AnswerTask.model_validate(task))


async def run(candidate: Answerer, stable: Answerer | None = None, **fields: object) -> EvaluateResult:
    """The stages against servers on real sockets, one after the other; each in a thread, with a loop of its own."""
    task: dict[str, object] = {"family": "desk", "suites": SUITES, "startup_timeout_seconds": 5}
    task |= {"output": "pvc://claim/evaluations/1"}
    if stable is not None:
        asked = {
            key: value
            for key, value in fields.items()
            if key in ("suites", "max_tokens", "concurrency", "reasoning_tags", "contract", "request_timeout_seconds")
        }
        kept = await answers(stable, **asked)
        task["baseline"] = {"version": "v1", "digest": STABLE, "answers": kept.uri, "answers_digest": kept.digest}
    async with serving(candidate, "v2", CANDIDATE) as arm:
        task["candidate"] = arm
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
    asked = [prompt for prompt in shared.asked if "weather" not in prompt]  # without the features of the API
    assert len(asked) <= len(alone.asked) + 1  # the checks of the API draw other prompts
    assert {stable.asked.count(prompt) for prompt in RIGHT} == {1}


def recorded(claim: Path, *requests: object) -> dict[str, object]:
    """The contract of these requests."""
    (claim / "requests.jsonl").write_text("".join(json.dumps(request) + "\n" for request in requests))
    return {"uri": "pvc://claim/requests.jsonl"}


ASKED = {"messages": [{"role": "user", "content": "where is parcel 1"}], "max_tokens": 8, "model": "theirs"}
TWICE = {"id": "two answers", "path": "/v1/chat/completions", "body": ASKED | {"n": 2}}


async def test_recorded_requests_are_answered_or_the_gate_of_the_api_names_them(claim: Path) -> None:
    contract = recorded(claim, ASKED, TWICE)
    result = await run(Answerer(RIGHT), contract=contract)
    assert result.api.failed == ["two answers: 1 choices instead of 2"]
    assert result.api.passed == 7 + 1


async def test_a_recorded_request_that_the_stable_version_does_not_answer_either_is_not_required(claim: Path) -> None:
    contract = recorded(claim, ASKED, TWICE)
    result = await run(Answerer(RIGHT), Answerer(RIGHT), contract=contract)
    assert result.api.failed == []


async def test_a_feature_that_the_stable_version_has_is_required(claim: Path) -> None:
    stable, without = Answerer(RIGHT), Answerer(RIGHT, template=False)
    assert (await run(stable, Answerer(RIGHT))).api.failed == []
    failed = (await run(without, Answerer(RIGHT), output="pvc://claim/evaluations/2")).api.failed
    assert "content parts: status 400: this model has no chat template" in failed


@pytest.mark.parametrize(("stable_hangs", "expected"), [(True, []), (False, ["tools: no answer"])])
async def test_a_model_that_hangs_at_a_feature_is_judged_by_the_others(stable_hangs: bool, expected: list[str]) -> None:
    hanging = Answerer(RIGHT, faults=frozenset({"hang"}))
    arms = (Answerer(RIGHT), hanging) if stable_hangs else (hanging, Answerer(RIGHT))
    failed = (await run(*arms, request_timeout_seconds=1, max_tokens=4)).api.failed
    assert [fault.partition(" (")[0] for fault in failed] == expected


@pytest.mark.parametrize(("stable_ends", "expected"), [(True, []), (False, ["max_completion_tokens: no answer"])])
async def test_an_engine_that_ends_at_a_feature_is_judged_by_the_others_when_it_is_back(
    stable_ends: bool, expected: list[str]
) -> None:
    """vLLM ended at the first request for logprobs, and with it each attempt of the evaluation."""
    fragile = Answerer(RIGHT, faults=frozenset({"fragile"}))
    arms = (Answerer(RIGHT), fragile) if stable_ends else (fragile, Answerer(RIGHT))
    failed = (await run(*arms, startup_timeout_seconds=20)).api.failed
    assert [fault.partition(" (")[0] for fault in failed] == expected


async def test_an_engine_that_does_not_come_back_from_a_feature_is_tried_again() -> None:
    ended = Answerer(RIGHT, faults=frozenset({"fragile"}), restart=math.inf)
    with pytest.raises(StageFailure, match="v1 stopped answering: no engine listens") as failure:
        await run(Answerer(RIGHT), ended, startup_timeout_seconds=1)
    assert failure.value.exit_code == EXIT_RETRY


async def test_a_request_that_cannot_be_sent_is_told_with_its_line(claim: Path) -> None:
    for request, fault in (
        ({"text": "x"}, "line 2: path must be one of"),
        ([1], "line 2: must be an object"),
        ({"body": 1}, "line 2: body must be an object"),
        ({"id": "line 1", "body": ASKED}, "line 2: another request has the id 'line 1'"),
    ):
        with pytest.raises(StageFailure, match=f"evaluation.contract: .*{fault}"):
            await run(Answerer(RIGHT), contract=recorded(claim, ASKED, request))
    with pytest.raises(StageFailure, match="the file has changed"):
        await run(Answerer(RIGHT), contract=recorded(claim, ASKED) | {"digest": STABLE})
    with pytest.raises(StageFailure, match="has no requests"):
        await run(Answerer(RIGHT), contract=recorded(claim))


async def test_only_the_first_requests_of_a_long_record_are_read(claim: Path) -> None:
    contract = recorded(claim, ASKED, {"id": "not read", "path": "/v1/unknown", "body": ASKED}) | {"max_requests": 1}
    assert (await run(Answerer(RIGHT), contract=contract)).api.passed == 7 + 1


async def test_a_separator_of_lines_in_a_recorded_text_does_not_end_its_line(claim: Path) -> None:
    text = ASKED | {"messages": [{"role": "user", "content": "where is\u2028parcel\x85 1"}]}
    contract = recorded(claim)
    (claim / "requests.jsonl").write_text(json.dumps(text, ensure_ascii=False) + "\n")
    assert (await run(Answerer(RIGHT), contract=contract)).api.failed == []


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


async def test_a_candidate_whose_engine_crashed_is_asked_again_and_not_wrong_everywhere() -> None:
    """The kubelet restarts an engine in a minute: meanwhile every item counted as wrong, and that was final."""
    with pytest.raises(StageFailure, match="v2 stopped answering: no engine listens") as failure:
        await run(Answerer(RIGHT, faults=frozenset({"crash"})))
    assert (failure.value.reason, failure.value.exit_code) == ("Unreachable", EXIT_RETRY)


@pytest.mark.parametrize(("seconds", "answered"), [(1, False), (5, True)])
async def test_an_answer_has_the_time_that_the_task_gives_it(seconds: int, answered: bool, claim: Path) -> None:
    """Two minutes were fixed: no 8B model on CPUs could be judged."""
    (claim / "items.jsonl").write_text(json.dumps({"prompt": "where", "completion": "unknown request"}) + "\n")
    slow = Answerer({}, faults=frozenset({"slow"}))
    if answered:
        assert (await answers(slow, request_timeout_seconds=seconds, max_tokens=2)).items == 1
    else:
        with pytest.raises(StageFailure, match="v1 stopped answering"):
            await answers(slow, request_timeout_seconds=seconds, max_tokens=2)


async def test_an_arm_that_does_not_come_up_is_tried_again() -> None:
    gone = {"version": "v1", "digest": STABLE, "url": "http://127.0.0.1:1", "ready_url": "http://127.0.0.1:1/readyz"}
    with pytest.raises(StageFailure, match="v1 was not ready") as failure:
        await answers(Answerer(RIGHT), startup_timeout_seconds=1, arm=gone)
    assert failure.value.exit_code == EXIT_RETRY


async def test_the_stable_version_is_asked_once_and_its_answers_are_found_again() -> None:
    first = await answers(Answerer(wrong(1)))
    silent = Answerer({})
    assert await answers(silent) == first
    assert silent.asked == []
    assert (first.model_digest, first.items, first.engine) == (STABLE, 40, "answerer")


async def test_answers_of_another_model_are_not_compared_with() -> None:
    kept = await answers(Answerer(RIGHT))
    other = {"version": "v0", "digest": CANDIDATE, "answers": kept.uri, "answers_digest": kept.digest}
    with pytest.raises(StageFailure, match="has answers of") as failure:
        await run(Answerer(RIGHT), baseline=other)
    assert (failure.value.reason, failure.value.exit_code) == ("AnswersMismatch", EXIT_BAD_INPUT)


async def test_answers_that_were_changed_are_refused(claim: Path) -> None:
    kept = await answers(Answerer(wrong(*range(40))))
    path = claim / "evaluations/baseline/answers.jsonl"
    path.write_text(path.read_text().replace("lost_parcel", "found_parcel"))
    told = {"version": "v1", "digest": STABLE, "answers": kept.uri, "answers_digest": kept.digest}
    candidate = Answerer(RIGHT)
    with pytest.raises(ManifestError, match=r"answers\.jsonl"):
        await run(candidate, baseline=told)
    assert candidate.asked == []


async def test_items_that_changed_between_the_arms_are_not_paired(claim: Path) -> None:
    kept = await answers(Answerer(RIGHT))
    (claim / "items.jsonl").write_text(
        json.dumps({"prompt": "where is parcel 1", "completion": "track_parcel_1"}) + "\n"
    )
    told = {"version": "v1", "digest": STABLE, "answers": kept.uri, "answers_digest": kept.digest}
    with pytest.raises(StageFailure, match="was asked different items") as failure:
        await run(Answerer(RIGHT), baseline=told)
    assert failure.value.exit_code == EXIT_BAD_INPUT


async def test_where_no_suite_compares_the_stable_version_is_asked_nothing() -> None:
    floor = [{"name": "least", "kind": "floor", "uri": "pvc://claim/items.jsonl"}]
    result = await run(Answerer(RIGHT), suites=floor, baseline={"version": "v1", "digest": STABLE})
    assert (result.baseline_digest, result.suites[0].baseline_correct) == (STABLE, None)


async def test_each_suite_has_its_own_limit_of_tokens_and_cut_answers_are_counted() -> None:
    """The answerer counts words: `track_parcel_1` is one."""
    items = {"uri": "pvc://claim/items.jsonl", "kind": "retention"}
    suites = [
        items | {"name": "short", "max_tokens": 1},
        items | {"name": "long", "max_tokens": 2},
        items | {"name": "usual"},
    ]
    said = {prompt: f"{text} indeed" for prompt, text in RIGHT.items()}
    candidate, stable = Answerer(said), Answerer(RIGHT | {"where is parcel 3": "no idea"})
    short, long, usual = (await run(candidate, stable, suites=suites, max_tokens=2)).suites
    assert (short.correct, short.cut, short.baseline_cut) == (40, 40, 1)
    assert (long.correct, long.cut, long.baseline_cut) == (0, None, None)
    assert usual == long.model_copy(update={"name": "usual"})


THOUGHTS = "<think>\nparcel 7 or 8 or lost_parcel\n</think>\n\n"
TAGS = ("<think>", "</think>")


@pytest.mark.parametrize("thoughts", ["<think>\n\n</think>\n\n", THOUGHTS, "opened by the prompt\n</think>\n\n"])
@pytest.mark.parametrize("separates", [False, True])
async def test_thoughts_are_not_scored(thoughts: str, separates: bool, claim: Path) -> None:
    """With Qwen3's template every answer of a trained model was wrong."""
    candidate = Answerer(RIGHT, thoughts=thoughts, separates=separates)
    result = await run(candidate, Answerer(wrong(1)), max_tokens=32, reasoning_tags=TAGS)
    (suite,) = result.suites
    assert (suite.correct, suite.baseline_correct) == (40, 39)
    features = json.loads((claim / "evaluations/1/contract.json").read_text())["features"]
    assert (result.api.failed, result.api.passed) == ([], 7 + list(features.values()).count(None))
    generation = json.loads((claim / "evaluations/1/result.json").read_text())["generation"]
    assert generation["old"]["reasoning_tags"] == list(TAGS)


async def test_answers_are_scored_as_they_are_without_tags() -> None:
    (suite,) = (await run(Answerer(RIGHT, thoughts=THOUGHTS), max_tokens=32)).suites
    assert suite.correct == 0


@pytest.mark.parametrize("separates", [False, True])
async def test_an_answer_that_ends_within_its_thoughts_is_wrong_and_told_to_be_cut(
    separates: bool, claim: Path
) -> None:
    """A thought may contain the answer: it is not one."""
    suites = [SUITES[0] | {"metric": {"type": "contains"}}]
    thoughts = "<think> " + " ".join(RIGHT.values())
    candidate = Answerer(RIGHT, thoughts=thoughts, separates=separates)
    (suite,) = (await run(candidate, suites=suites, max_tokens=32, reasoning_tags=TAGS)).suites
    assert (suite.correct, suite.cut) == (0, 40)
    row = json.loads((claim / "evaluations/1/items.jsonl").read_text().splitlines()[0])
    assert "ends within its thoughts: raise maxTokens" in row["candidate"]["error"]


async def test_completions_with_thoughts_are_compared_by_their_answers(claim: Path) -> None:
    items = [json.loads(line) for line in (claim / "items.jsonl").read_text().splitlines()]
    thought = [item | {"completion": f"<think>\nhm\n</think>\n\n{item['completion']}"} for item in items]
    (claim / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in thought))
    (suite,) = (await run(Answerer(RIGHT), reasoning_tags=TAGS)).suites
    assert suite.correct == 40


async def test_free_text_is_scored_between_0_and_1_and_the_evidence_holds_each_score(claim: Path) -> None:
    suites = [SUITES[0] | {"metric": {"type": "chrf"}}]
    said = {prompt: f"{text} indeed" for prompt, text in RIGHT.items()}
    (suite,) = (await run(Answerer(said), Answerer(wrong(1, 2)), suites=suites, max_tokens=8)).suites
    assert 0.7 * 40 < suite.correct < 40
    assert suite.baseline_correct is not None
    assert 38 < suite.baseline_correct < 40
    assert suite.gained is None
    assert suite.lower is not None
    assert suite.upper is not None
    assert -0.2 < suite.lower < (suite.correct - suite.baseline_correct) / 40 < suite.upper < 0.1
    rows = [json.loads(line) for line in (claim / "evaluations/1/items.jsonl").read_text().splitlines()]
    assert sum(row["candidate"]["score"] for row in rows) == pytest.approx(suite.correct, abs=1e-3)
    assert {row["baseline"]["score"] for row in rows if row["prompt"] == "where is parcel 3"} == {1.0}


async def test_each_suite_has_its_own_settings_of_answers_and_the_evidence_holds_them(claim: Path) -> None:
    items = {"uri": "pvc://claim/items.jsonl", "kind": "floor", "minimum": 0.5}
    suites = [
        items | {"name": "plain"},
        items | {"name": "short", "stop": ["_parcel"]},
        items | {"name": "kind", "systemPrompt": "Be kind.", "temperature": 0.7, "topP": 0.9},
    ]
    answerer = Answerer(RIGHT)
    plain, short, kind = (await run(answerer, suites=suites)).suites
    assert (plain.correct, short.correct, kind.correct) == (40, 0, 40)
    with_system = [body for body in answerer.bodies if body["messages"][0]["role"] == "system"]
    assert len(with_system) == 40
    assert {(body["temperature"], body["top_p"], body["seed"]) for body in with_system} == {(0.7, 0.9, 0)}
    generation = json.loads((claim / "evaluations/1/result.json").read_text())["generation"]
    assert (generation["short"]["stop"], generation["plain"]["temperature"]) == (["_parcel"], 0)


async def test_a_completion_that_the_metric_cannot_compare_is_told_before_anything_is_asked() -> None:
    candidate = Answerer(RIGHT)
    with pytest.raises(StageFailure, match=r"BadItems: suite old: item .*the completion is not JSON"):
        await run(candidate, suites=[SUITES[0] | {"metric": {"type": "json"}}])
    assert candidate.asked == []


LIKELY = [SUITES[0] | {"metric": {"type": "logprob"}}]


async def test_the_likelihood_of_the_reference_is_compared_without_an_answer(claim: Path) -> None:
    """A version that knows two answers fewer gives these a probability of exp(-2), and the others exp(-0.1)."""
    candidate, stable = Answerer(wrong(1, 2)), Answerer(RIGHT)
    (suite,) = (await run(candidate, stable, suites=LIKELY)).suites
    assert suite.correct == pytest.approx(38 * math.exp(-0.1) + 2 * math.exp(-2), abs=1e-3)
    assert suite.baseline_correct == pytest.approx(40 * math.exp(-0.1), abs=1e-3)
    assert (suite.errors, suite.gained) == (0, None)
    rows = [json.loads(line) for line in (claim / "evaluations/1/items.jsonl").read_text().splitlines()]
    (lost,) = [row for row in rows if row["prompt"] == "where is parcel 1"]
    assert lost["candidate"] == {"logprob": -2.0, "tokens": 1, "score": pytest.approx(math.exp(-2), abs=1e-5)}
    assert lost["baseline"] == {"logprob": -0.1, "tokens": 1, "score": pytest.approx(math.exp(-0.1), abs=1e-5)}


async def test_an_engine_that_scores_no_prompt_is_told_to_use_another_metric() -> None:
    with pytest.raises(StageFailure, match="BadMetric: the engine gives no log-probabilities of a prompt") as failure:
        await run(Answerer(RIGHT, faults=frozenset({"deaf"})), suites=LIKELY)
    assert failure.value.exit_code == EXIT_BAD_INPUT


async def test_likelihoods_of_different_tokens_are_not_compared() -> None:
    with pytest.raises(StageFailure, match=r"BadMetric: suite old: item .*has 2 tokens, and 1 with the stable"):
        await run(Answerer(RIGHT, faults=frozenset({"chatty"})), Answerer(RIGHT), suites=LIKELY)


async def test_an_item_that_the_model_refuses_has_no_likelihood(claim: Path) -> None:
    with (claim / "items.jsonl").open("a") as stream:
        stream.write(json.dumps({"prompt": "please refuse me", "completion": "refuse anything"}) + "\n")
    (suite,) = (await run(Answerer(RIGHT), suites=LIKELY)).suites
    assert (suite.items, suite.errors) == (41, 1)


def judged_by(url: str, **judge: object) -> list[dict[str, object]]:
    return [SUITES[0] | {"metric": {"type": "judge", "judge": {"url": url, "model": "big"} | judge}}]


async def test_a_judge_compares_both_versions_in_both_orders(claim: Path) -> None:
    """The candidate knows 38 answers, the stable version 36: 34 are equal, and need no judge."""
    umpire = Umpire()
    async with umpire.serving() as url:
        found = await run(Answerer(wrong(1, 2)), Answerer(wrong(3, 4, 5, 6)), suites=judged_by(url))
    (suite,) = found.suites
    assert (suite.correct, suite.baseline_correct) == (21, 19)
    assert len(umpire.asked) == 2 * 6
    assert suite.lower is not None
    assert suite.upper is not None
    assert -0.3 < suite.lower < 2 / 40 < suite.upper < 0.35
    encode(found)
    folder = claim / "evaluations/1"
    about = json.loads((folder / "result.json").read_text())["judges"]["old"]
    assert (about["judged"], about["equal"], about["contradictions"], about["requests"]) == (6, 34, 0, 12)
    assert about["model"] == "big"
    assert about["prompt"].startswith("sha256:")
    rows = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    (lost,) = [row for row in rows if row["prompt"] == "where is parcel 1"]
    assert lost["verdicts"] == {"first": -1, "second": -1, "asked": True}
    assert (lost["candidate"]["score"], lost["baseline"]["score"]) == (0.0, 1.0)
    assert len((folder / "judgements.jsonl").read_text().splitlines()) == 12


async def test_a_judge_that_prefers_a_position_shows_no_difference() -> None:
    async with Umpire(prefers="A").serving() as url:
        (suite,) = (await run(Answerer(wrong(*range(20))), Answerer(RIGHT), suites=judged_by(url))).suites
    assert suite.correct == suite.baseline_correct == 20
    assert suite.reliability == 0
    assert suite.lower is not None
    assert suite.lower < -0.5


async def test_without_a_verdict_the_candidate_has_lost() -> None:
    async with Umpire(prefers="nothing").serving() as url:
        (suite,) = (await run(Answerer(wrong(1, 2)), Answerer(RIGHT), suites=judged_by(url))).suites
    assert (suite.correct, suite.baseline_correct) == (19, 21)


async def test_when_an_evaluation_runs_again_the_judge_is_asked_only_what_is_new() -> None:
    umpire = Umpire()
    async with umpire.serving() as url:
        first = await run(Answerer(wrong(1, 2)), Answerer(RIGHT), suites=judged_by(url))
        asked = len(umpire.asked)
        again = await run(
            Answerer(wrong(1, 2)), Answerer(RIGHT), suites=judged_by(url), output="pvc://claim/evaluations/2"
        )
    assert again.suites == first.suites
    assert len(umpire.asked) == asked == 4


async def test_a_judge_has_nothing_to_compare_without_a_stable_version() -> None:
    umpire = Umpire()
    async with umpire.serving() as url:
        (suite,) = (await run(Answerer(RIGHT), suites=judged_by(url))).suites
    assert (suite.items, suite.baseline_correct, umpire.asked) == (0, None, [])


async def test_the_key_of_the_judge_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JUDGE_KEY_ENV.format(0), "secret")
    async with Umpire(key="secret").serving() as url:
        (suite,) = (await run(Answerer(wrong(1)), Answerer(RIGHT), suites=judged_by(url))).suites
    assert suite.correct == 19.5


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
        ("stream", "stream"),
        ("stop", "stop"),
        ("overflow", "overflow"),
        ("malformed", "malformed JSON"),
    ],
)
async def test_each_broken_promise_of_the_api_is_found_and_named(fault: str, check: str) -> None:
    result = await run(Answerer(RIGHT, faults=frozenset({fault})))
    assert check in [failed.partition(":")[0] for failed in result.api.failed]
    assert result.api.uncertain == []


async def test_answers_that_come_and_go_break_no_promise_and_keep_none() -> None:
    """Batches of another size round otherwise, and a near tie falls the other way: no version is at fault for that."""
    api = (await run(Answerer(RIGHT, faults=frozenset({"unsteady"})))).api
    assert api.failed == []
    assert [told.partition(":")[0] for told in api.uncertain] == ["temperature 0", "stream"]


async def test_one_answer_that_differed_once_is_looked_at_again() -> None:
    api = (await run(Answerer(RIGHT, faults=frozenset({"slip"})))).api
    assert (api.failed, api.uncertain) == ([], [])


async def test_a_tie_that_fell_the_same_way_five_times_is_still_by_chance() -> None:
    """Five looks at an even tie are alike once in 500 evaluations: a final Fail of a good version."""
    api = (await run(Answerer(RIGHT, faults=frozenset({"unlucky"})))).api
    assert (api.failed, [told.partition(":")[0] for told in api.uncertain]) == ([], ["stream"])


async def test_a_stop_that_later_answers_lack_is_looked_at_again() -> None:
    """The answer from which it was taken fell the other way once, and no later one could end with it: a final Fail."""
    said = {prompt: f"{text} indeed" for prompt, text in RIGHT.items()}
    api = (await run(Answerer(said, faults=frozenset({"tie"})), max_tokens=1)).api
    assert (api.failed, api.uncertain) == ([], [])


ANCHOR = "sha256:" + "c" * 64
TOTAL: list[dict[str, object]] = [
    {**SUITES[0], "totalDelta": 0.1},
    {**SUITES[0], "name": "least", "kind": "floor", "minimum": 0.5},
]


async def anchored(first: Answerer, **fields: object) -> dict[str, object]:
    """The answers of the anchor, as a part of the task."""
    async with serving(first, "v0", ANCHOR) as arm:
        task = {"family": "desk", "arm": arm, "suites": TOTAL[:1], "startup_timeout_seconds": 5}
        task |= {"output": "pvc://claim/evaluations/anchor"}
        kept = await asyncio.to_thread(stage.answer, AnswerTask.model_validate(task))
    compared = {"version": "v0", "digest": ANCHOR, "answers": kept.uri, "answers_digest": kept.digest}
    return {"anchor": compared, "suites": TOTAL} | fields


async def test_a_suite_with_a_total_is_compared_with_the_anchor_too(claim: Path) -> None:
    result = await run(Answerer(wrong(1, 2)), Answerer(wrong(2, 3, 4)), **await anchored(Answerer(wrong(9))))
    old, least = result.suites
    assert (old.baseline_correct, old.gained, old.lost) == (37, 2, 1)
    assert old.anchor is not None
    assert (old.anchor.correct, old.anchor.gained, old.anchor.lost) == (39, 1, 2)
    assert old.anchor.error > 0
    assert (least.anchor, result.anchor_digest) == (None, ANCHOR)
    rows = [json.loads(line) for line in (claim / "evaluations/1/items.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows if row["suite"] == "old" and not row["anchor"]["right"]] == ["9"]
    assert set(json.loads((claim / "evaluations/1/result.json").read_text())["arms"]) == {"v0", "v1", "v2"}


async def test_a_result_of_another_look_with_the_anchor_is_not_used_again() -> None:
    same = await anchored(Answerer(RIGHT))
    first = await run(Answerer(wrong(1)), Answerer(RIGHT), **same)
    assert first.suites[0].anchor is not None
    assert await run(Answerer(wrong(1, 2)), Answerer(RIGHT), **same) == first
    later = await run(Answerer(wrong(1, 2)), Answerer(RIGHT), **same, anchor_looks={"old": 2})
    assert later.suites[0].anchor is not None
    assert (later.suites[0].anchor.look, later.suites[0].anchor.lost) == (2, 2)


async def test_scores_between_0_and_1_have_bounds_for_the_look_with_the_anchor() -> None:
    graded = [{**TOTAL[0], "metric": {"type": "chrf"}}]
    task = await anchored(Answerer(wrong(9)), suites=graded, anchor_looks={"old": 3})
    (suite,) = (await run(Answerer(wrong(1, 2)), Answerer(RIGHT), **task)).suites
    assert suite.anchor is not None
    assert suite.anchor.lower is not None
    assert suite.lower is not None
    assert suite.anchor.gained is None
    assert suite.anchor.lower < (suite.correct - suite.anchor.correct) / suite.items < (suite.anchor.upper or 0)


async def test_the_stable_version_as_the_anchor_is_compared_only_in_suites_with_a_total() -> None:
    """Its answers are to all suites that compare. A pod that was lost after the evaluation asked everything again."""
    async with Umpire().serving() as url:
        judged = judged_by(url)[0] | {"name": "judged"}
        suites = [TOTAL[0], {**SUITES[0], "name": "new", "kind": "target"}, judged]
        stable = Answerer(wrong(9))
        kept = await answers(stable, suites=suites)
        compared = {"version": "v1", "digest": STABLE, "answers": kept.uri, "answers_digest": kept.digest}
        first = await run(Answerer(wrong(1, 2)), stable, suites=suites, anchor=compared)
        again = await run(Answerer(RIGHT), stable, suites=suites, anchor=compared)
    assert [suite.anchor is not None for suite in first.suites] == [True, False, False]
    assert again == first

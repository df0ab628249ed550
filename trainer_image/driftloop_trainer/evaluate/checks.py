"""Checks that a served model's API behaves as clients of OpenAI's API expect. Each check is one function.

A check returns what is wrong, or None. A check that can't be run counts as failed.

Greedy answers should be equal. But on GPUs the last bits of a sum depend on the batch, so that the likeliest token can
change in a near tie: https://github.com/vllm-project/vllm/issues/7779. So a check for equal answers is repeated, and a
difference that comes and goes is a ByChance: it doesn't prove that the API is wrong.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, assert_never

import aiohttp

from driftloop.contract.result import ApiCheck
from driftloop_trainer.evaluate.client import Arm, Reply, said_of

Check = Callable[[Arm, str, int], Awaitable[str | None]]

_FALLBACK_CONTEXT = 150_000  # words of an overlong prompt if the engine doesn't report its context
_PROBES = 8  # prompts to try until one gets a non-empty answer
_IN_TAGS = "</think>\n "
_REPETITIONS = 8  # repetitions of a failed comparison; with four, one of 500 exact ties looked steady by chance


class ByChance(str):
    """A fault that a repetition may not show."""

    __slots__ = ()


async def check_api(arm: Arm, prompts: Sequence[str], max_tokens: int) -> ApiCheck:
    """Run all checks with the first of `prompts` that gets a non-empty answer."""
    prompt = await _answered(arm, prompts[:_PROBES], max_tokens)
    failed: list[str] = []
    uncertain: list[str] = []
    for name, check in CHECKS.items():
        try:
            fault = await check(arm, prompt, max_tokens)
        except (
            aiohttp.ClientError,
            TimeoutError,
            ValueError,
            KeyError,
            TypeError,
            IndexError,
            AttributeError,
        ) as error:
            fault = f"{type(error).__name__}: {error}"
        match fault:
            case ByChance():
                uncertain.append(f"{name}: {fault}"[:160])
            case str():
                failed.append(f"{name}: {fault}"[:160])
            case None:
                pass
            case never:
                assert_never(never)
    return ApiCheck(passed=len(CHECKS) - len(failed) - len(uncertain), failed=failed, uncertain=uncertain)


async def _answered(arm: Arm, prompts: Sequence[str], max_tokens: int) -> str:
    for prompt in prompts:
        if await arm.said(prompt, max_tokens):
            return prompt
    return prompts[0]


async def models_lists_the_model(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    reply = await arm.get("/v1/models")
    names = [str(model.get("id")) for model in reply.document.get("data") or []]
    if reply.document.get("object") != "list" or arm.model not in names or not arm.model:
        return f"/v1/models returned status {reply.status} with {names}"
    model = (await arm.generate(prompt, max_tokens=max_tokens)).document.get("model")
    return None if model == arm.model else f"the answer names the model {model!r}, /v1/models names {arm.model!r}"


async def usage_adds_up(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    usage = (await arm.generate(prompt, max_tokens=max_tokens)).document["usage"]
    prompt_tokens, completion_tokens, total = usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]
    if prompt_tokens < 1 or not 0 <= completion_tokens <= max_tokens or prompt_tokens + completion_tokens != total:
        return f"prompt {prompt_tokens}, completion {completion_tokens} of at most {max_tokens}, total {total}"
    return None


async def temperature_0_is_reproducible(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    async def both() -> Pair:
        return await arm.said(prompt, max_tokens), await arm.said(prompt, max_tokens)

    fault = await _differ(both, "{!r}, then {!r}")
    return ByChance(fault) if fault else None


async def a_stream_says_the_same(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    reason, done = None, False

    async def both() -> Pair:
        nonlocal reason, done
        whole = await arm.said(prompt, max_tokens)
        text, reason, done = await arm.stream(prompt, max_tokens=max_tokens)
        return whole, text

    if fault := await _differ(both, "whole {!r}, streamed {!r}"):
        return fault
    return None if reason and done else f"finish_reason {reason!r}, [DONE] {'received' if done else 'missing'}"


async def stop_stops(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    async def both() -> Pair:
        whole = await arm.said(prompt, max_tokens)
        if not whole:
            return None, "an empty answer"
        stop = _stop_in(whole)
        document = (await arm.generate(prompt, max_tokens=max_tokens, stop=[stop])).document
        expected, received = (whole.partition(stop)[0], "stop"), (said_of(document).whole, _reason(document))
        return f"{expected} for stop {stop!r}", f"{received} for stop {stop!r}"

    return await _differ(both, "expected {}, received {}")


def _stop_in(text: str) -> str:
    """A character near the middle, if possible none of a tag: an engine that separates thoughts hides the tags."""
    middle = len(text) // 2
    return next((character for character in text[middle:] if character not in _IN_TAGS), text[middle])


Pair = tuple[str | None, str | None]


async def _differ(both: Callable[[], Awaitable[Pair]], message: str) -> str | None:
    """The difference of two texts that should be equal; None if they are equal.

    It is a ByChance unless both texts stay the same in every repetition.
    """
    pairs = [await both()]
    if _equal(pairs[0]):
        return None
    pairs += [await both() for _ in range(_REPETITIONS)]
    if all(_equal(pair) for pair in pairs[1:]):
        return None
    fault = message.format(*pairs[0])
    steady = len(set(pairs)) == 1
    return fault if steady else ByChance(fault)


def _reason(document: dict[str, Any]) -> str | None:
    reason: str | None = document["choices"][0]["finish_reason"]
    return reason


def _equal(pair: Pair) -> bool:
    """Whether there are two answers and they are equal."""
    return pair[0] is not None and pair[0] == pair[1]


async def overflow_is_explained(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    # Tokenizers split at spaces, so each word is at least one token.
    words = "x " * ((arm.max_model_len or _FALLBACK_CONTEXT) + 1)
    return _refused(await arm.generate(words, max_tokens=1), 400, 413)


async def malformed_json_is_refused(arm: Arm, prompt: str, max_tokens: int) -> str | None:
    return _refused(await arm.post(arm.path, '{"model": '), 400)


def _refused(reply: Reply, *statuses: int) -> str | None:
    if reply.status not in statuses:
        return f"returned status {reply.status}"
    return None if reply.error else "refused without an error message"


CHECKS: dict[str, Check] = {
    "models": models_lists_the_model,
    "usage": usage_adds_up,
    "temperature 0": temperature_0_is_reproducible,
    "stream": a_stream_says_the_same,
    "stop": stop_stops,
    "overflow": overflow_is_explained,
    "malformed JSON": malformed_json_is_refused,
}

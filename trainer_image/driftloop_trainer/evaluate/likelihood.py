"""Asks one served model how likely a completion is, by the log-probabilities of a prompt that ends with it."""

import json
import math
from typing import Any

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import Question
from driftloop_trainer.evaluate.client import Answer, Arm, Generation, Likelihood, Reply

_FIELDS = ("prompt_logprobs", "continue_final_message")  # vLLM's extensions that it needs
Scores = list[tuple[str, float | None]]  # id and log-probability of each token of a prompt


async def weigh(arm: Arm, question: Question, completion: str, generation: Generation) -> Answer:
    """The likelihood of a completion behind its question. Of `generation` only the system prompt has an effect.

    The completion's tokens are those behind the common beginning of two prompts, without and with the completion: a
    tokenizer may join the end of the one with the beginning of the other. Raises StageFailure with a retry if the model
    can't be reached, without one if its engine doesn't support the request.
    """
    question = question.with_system(generation.system_prompt)
    before = await _send(arm, arm.request(question))
    if before.status != 200:
        return _refused(before)
    behind = await _send(arm, _continued(arm, question, completion))
    if behind.status != 200:
        return _refused(behind)
    start, whole = _scores(before), _scores(behind)
    same = next((n for n, (a, b) in enumerate(zip(start, whole, strict=False)) if a[0] != b[0]), len(start))
    known = [logprob for _, logprob in whole[same:] if logprob is not None]
    if not known:
        return Answer(None, "the completion has no token behind its question")
    return Answer(None, likelihood=Likelihood(math.fsum(known) / len(known), len(known)))


async def _send(arm: Arm, body: dict[str, Any]) -> Reply:
    return await arm.post(arm.path, json.dumps(body | {"max_tokens": 1, "prompt_logprobs": 0}))


def _continued(arm: Arm, question: Question, completion: str) -> dict[str, Any]:
    """A request whose prompt ends with the completion."""
    body = arm.request(question)
    if arm.route == "completions":
        return body | {"prompt": body["prompt"] + completion}
    messages = [*body["messages"], {"role": "assistant", "content": completion}]
    return body | {"messages": messages, "continue_final_message": True, "add_generation_prompt": False}


def _refused(reply: Reply) -> Answer:
    """An item that the model refuses. Raises StageFailure if it refuses the kind of request."""
    if any(field in reply.error for field in _FIELDS):
        raise _unsupported(reply)
    return Answer(None, f"{reply.status}: {reply.error or reply.body[:300]}", reply.status)


def _scores(reply: Reply) -> Scores:
    scores = prompt_scores(reply.document)
    if scores is None:
        raise _unsupported(reply)
    return scores


def _unsupported(reply: Reply) -> StageFailure:
    message = (
        f"the engine gives no log-probabilities of a prompt: {reply.error or reply.body[:300]}: use an engine that "
        "supports vLLM's prompt_logprobs, or another metric than logprob"
    )
    return StageFailure(StageReason.BAD_METRIC, message)


def prompt_scores(document: dict[str, Any]) -> Scores | None:
    """Id and log-probability of each token of a prompt, from a reply of either route; None if it has none.

    vLLM has the list beside the choices of a chat, and in the choice of a completion. The first token has no
    log-probability, and no id there.
    """
    choices = document.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    logprobs = document.get("prompt_logprobs") or choice.get("prompt_logprobs")
    if not isinstance(logprobs, list):
        return None
    try:
        entries = [next(iter(entry.items())) if entry else ("", {"logprob": None}) for entry in logprobs]
        return [(token, value["logprob"]) for token, value in entries]
    except (AttributeError, TypeError, KeyError, StopIteration):
        return None

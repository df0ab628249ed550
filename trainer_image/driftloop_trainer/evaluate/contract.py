"""Requests to a served model's API, and whether they are answered as OpenAI's API answers them.

Some are features of the API, others are recorded by the users. What counts is the form of an answer, and not what it
says: the right number of choices, complete tool calls, JSON where JSON was asked, usage, the end of a stream.
Specification: https://platform.openai.com/docs/api-reference
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable

from driftloop.contract.result import ApiCheck
from driftloop_trainer.data.requests import CHAT, COMPLETIONS, RESPONSES, Body, Request
from driftloop_trainer.evaluate.client import Arm, Reply
from driftloop_trainer.evaluate.gathered import gathered

_FILE = "contract.json"
_MAX_FAILED = 8  # of ApiCheck
_ATTEMPTS = 3  # a model may answer with broken JSON once by chance
_MAX_FAULT = 120  # characters

_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "city",
        "schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
_ASKED = "What is the weather in Paris? Answer in JSON."


def _chat(name: str, **fields: Any) -> Request:
    body = {"messages": [{"role": "user", "content": _ASKED}], "max_tokens": 64, "temperature": 0} | fields
    return Request(name, CHAT, body)


FEATURES: Sequence[Request] = (
    _chat("tools", tools=[_WEATHER]),
    _chat("tool_choice", tools=[_WEATHER], tool_choice="required"),
    _chat("response_format json_object", response_format={"type": "json_object"}),
    _chat("response_format json_schema", response_format=_SCHEMA),
    _chat("n", n=2, temperature=1.0),
    _chat("logprobs", logprobs=True, top_logprobs=2),
    _chat("usage in streams", stream=True, stream_options={"include_usage": True}),
    _chat("max_completion_tokens", max_tokens=None, max_completion_tokens=8),
    _chat("content parts", messages=[{"role": "user", "content": [{"type": "text", "text": _ASKED}]}]),
    Request("completions", COMPLETIONS, {"prompt": _ASKED, "max_tokens": 8, "temperature": 0}),
    Request("responses", RESPONSES, {"input": _ASKED, "max_output_tokens": 16}),
    Request("error of an unknown model", CHAT, {"model": "no-such-model", "messages": []}, is_refused=True),
)


@dataclass(frozen=True)
class Conduct:
    """What is wrong with a model's answers to the features of the API, and to recorded requests; None: nothing."""

    features: Mapping[str, str | None]
    recorded: Mapping[str, str | None]

    def write(self, folder: Path) -> None:
        """Leave it beside the answers."""
        (folder / _FILE).write_text(json.dumps({"features": self.features, "recorded": self.recorded}, indent=1) + "\n")

    @staticmethod
    def read(folder: Path) -> "Conduct | None":
        """What `write` has left; None in a folder of an earlier release."""
        path = folder / _FILE
        return Conduct(**json.loads(path.read_text())) if path.exists() else None


def with_conduct(api: ApiCheck, candidate: Conduct, stable: Conduct | None) -> ApiCheck:
    """The checks with the requests that the candidate must answer. Pure.

    A feature is only required if the stable version has it; a recorded request, unless stable does not answer it
    either. Without a stable version all recorded requests are required, and no features.
    """
    known = stable or Conduct({}, {})
    # Answers of another release may be about other features.
    features = [name for name in candidate.features if name in known.features and known.features[name] is None]
    recorded = [name for name in candidate.recorded if known.recorded.get(name) is None]
    asked = [
        *((name, candidate.features[name]) for name in features),
        *((n, candidate.recorded[n]) for n in recorded),
    ]
    failed = [*api.failed, *(f"{name}: {fault}"[:160] for name, fault in asked if fault is not None)]
    if len(failed) > _MAX_FAILED:
        failed = [*failed[: _MAX_FAILED - 1], f"{len(failed) - _MAX_FAILED + 1} more requests"]
    answered = sum(fault is None for _, fault in asked)
    return api.model_copy(update={"passed": api.passed + answered, "failed": failed})


async def conduct_of(arm: Arm, recorded: Sequence[Request], features: Sequence[Request], restart: float) -> Conduct:
    """Send the requests, and see what is wrong with the answers.

    `restart`: seconds that an engine which ends at a request has to come back. Raises StageFailure with a retry if it
    does not.
    """
    return Conduct(await _faults(arm, features, restart), await _faults(arm, recorded, restart))


async def _faults(arm: Arm, requests: Sequence[Request], restart: float) -> dict[str, str | None]:
    """What is wrong with the answer to each request, by its name; None if it is answered as it should be.

    A request at which an engine ends takes the others with it. So those that failed are asked again, one by one.
    """
    replies = await gathered(_reply(arm, request) for request in requests)
    found: dict[str, str | None] = {}
    for request, together in zip(requests, replies, strict=True):
        reply = await _alone(arm, request, restart) if _is_lost(together) else together
        found[request.name] = fault_of(request, reply)
    return found


async def _alone(arm: Arm, request: Request, restart: float) -> Reply:
    await arm.wait_back(restart)
    reply = await _reply(arm, request)
    if _is_lost(reply):
        await arm.wait_back(restart)
    return reply


def _is_lost(reply: Reply) -> bool:
    """Whether the model did not answer, or failed at the request or at another one."""
    return reply.is_gone or reply.status >= 500


async def _reply(arm: Arm, request: Request) -> Reply:
    body = {name: value for name, value in request.body.items() if value is not None}
    if not request.is_refused:
        body["model"] = arm.model
    for _ in range(_ATTEMPTS):
        reply = await arm.try_post(request.path, body)
        if _is_lost(reply) or fault_of(request, reply) is None:
            break
    return reply


def fault_of(request: Request, reply: Reply) -> str | None:
    """What is wrong with a reply; None if it is as it should be. Pure."""
    if request.is_refused or not 200 <= reply.status < 300:
        return _refusal_fault(request, reply)
    try:
        if request.body.get("stream"):
            found = _stream_fault(request, reply)
        else:
            found = next(filter(None, _document_faults(request, reply.document)), None)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        found = f"the answer has another form ({type(error).__name__}: {error})"
    except RecursionError:  # a model that repeats [ for ever
        found = "the answer is nested too deeply"
    return found[:_MAX_FAULT] if found else None


def _refusal_fault(request: Request, reply: Reply) -> str | None:
    if reply.is_gone:
        return f"no answer ({reply.error or reply.body})"[:_MAX_FAULT]
    if not reply.error:
        return f"status {reply.status} without an error in OpenAI's form"
    if request.is_refused and 400 <= reply.status < 500:
        return None
    return f"status {reply.status}: {reply.error}"[:_MAX_FAULT]


def _document_faults(request: Request, document: dict[str, Any]) -> Iterator[str | None]:
    check = {CHAT: _chat_faults, COMPLETIONS: _completion_faults, RESPONSES: _response_faults}
    yield from check.get(request.path, _embedding_faults)(request.body, document)
    yield _usage_fault(document.get("usage"))


def _chat_faults(body: Body, document: dict[str, Any]) -> Iterator[str | None]:
    choices = document["choices"]
    yield _number_fault(body, choices)
    for choice in choices:
        message, is_cut = choice["message"], choice["finish_reason"] == "length"
        calls = message.get("tool_calls") or []
        if not isinstance(message.get("content"), str) and not calls and not is_cut:  # cut within separated thoughts
            yield "neither content nor tool_calls"
        if not isinstance(choice["finish_reason"], str):
            yield f"finish_reason {choice['finish_reason']!r}"
        if not is_cut:  # what the limit of tokens has cut can't be complete
            yield from (_call_fault(body, call) for call in calls)
            yield _choice_fault(body, calls)
            yield _format_fault(body, message.get("content")) if not calls else None
        if body.get("logprobs") and not choice["logprobs"]["content"]:
            yield "no logprobs"


def _completion_faults(body: Body, document: dict[str, Any]) -> Iterator[str | None]:
    choices = document["choices"]
    yield _number_fault(body, choices)
    for choice in choices:
        if not isinstance(choice["text"], str) or not isinstance(choice["finish_reason"], str):
            yield "a choice without text and finish_reason"
        if body.get("logprobs") is not None and not choice["logprobs"]["token_logprobs"]:
            yield "no logprobs"


def _response_faults(_: Body, document: dict[str, Any]) -> Iterator[str | None]:
    if document["object"] != "response" or not isinstance(document["output"], list):
        yield "no response with output"
    if document["status"] not in ("completed", "incomplete"):
        yield f"status {document['status']}"


def _embedding_faults(body: Body, document: dict[str, Any]) -> Iterator[str | None]:
    given = body.get("input")
    number = len(given) if isinstance(given, list) and given and not isinstance(given[0], int) else 1
    if len(document["data"]) != number or not all(entry["embedding"] for entry in document["data"]):
        yield f"{len(document['data'])} embeddings for {number} inputs"


def _number_fault(body: Body, choices: Sequence[Any]) -> str | None:
    wanted = body.get("n") or 1
    return None if len(choices) == wanted else f"{len(choices)} choices instead of {wanted}"


def _usage_fault(usage: dict[str, Any] | None) -> str | None:
    if not usage:
        return "no usage"
    given = usage.get("prompt_tokens", usage.get("input_tokens"))
    made = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return None if given + made == usage["total_tokens"] else f"usage does not add up: {json.dumps(usage)}"


def _call_fault(body: Body, call: dict[str, Any]) -> str | None:
    """A call must name a tool of the request, with arguments that its parameters allow."""
    tools = {tool["function"]["name"]: tool["function"].get("parameters") for tool in body.get("tools") or []}
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    if name not in tools:
        return f"calls {name}, which is no tool of the request"
    return _schema_fault(arguments, tools[name] or {}, f"the arguments of {name}")


def _choice_fault(body: Body, calls: Sequence[dict[str, Any]]) -> str | None:
    choice = body.get("tool_choice")
    if choice == "none":
        return "calls a tool despite tool_choice none" if calls else None
    if choice == "required" or isinstance(choice, dict):
        return None if calls else "calls no tool despite tool_choice"
    return None


def _format_fault(body: Body, content: Any) -> str | None:
    wanted = body.get("response_format") or {}
    match wanted.get("type"):
        case "json_object":
            return _schema_fault(content, {"type": "object"}, "the answer")
        case "json_schema":
            return _schema_fault(content, wanted["json_schema"].get("schema") or {}, "the answer")
        case _:
            return None


def _schema_fault(text: str, schema: dict[str, Any], what: str) -> str | None:
    try:
        document = json.loads(text)
    except ValueError:
        return f"{what} is not JSON"
    try:
        Draft202012Validator.check_schema(schema)
        # The default registry fetches what a $ref names.
        error = next(Draft202012Validator(schema, registry=Registry()).iter_errors(document), None)
    except (SchemaError, Unresolvable, RecursionError):  # a $ref to nothing, to another document, or to itself
        return None  # the request's own fault
    return f"{what} does not match its schema: {error.message}" if error else None


def _stream_fault(request: Request, reply: Reply) -> str | None:
    """Events of the route's form up to its end. Only chat and completions end with [DONE]."""
    lines = [line.removeprefix("data:").strip() for line in reply.body.split("\n") if line.startswith("data:")]
    if request.path == RESPONSES:
        kinds = [json.loads(line)["type"] for line in lines if line != "[DONE]"]
        return None if kinds and kinds[-1] in ("response.completed", "response.incomplete") else "the stream has no end"
    if not lines or lines[-1] != "[DONE]":
        return "the stream does not end with [DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    if not any(choice.get("finish_reason") for choice in choices):
        return "no finish_reason in the stream"
    if (request.body.get("stream_options") or {}).get("include_usage"):
        return _usage_fault(next((chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage")), None))
    return None

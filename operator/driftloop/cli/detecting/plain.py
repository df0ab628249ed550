"""Requests as JSON objects: a text, or the body of an OpenAI request, with time and user. Pure."""

from typing import Any

from driftloop.cli.detecting.moments import moment
from driftloop.cli.detecting.requests import BadLine, Line, one
from driftloop.contract.prompts import prompt_of, prompt_of_response
from driftloop.contract.shares import user_of

Json = dict[str, Any]
TEXTS = ("text", "messages", "prompt", "input")


def is_plain(document: Json) -> bool:
    """Whether the object has a field of this format."""
    return any(field in document for field in TEXTS)


def parse(document: Json) -> Line:
    """The request. Raises BadLine."""
    at = moment(document.get("time", document.get("timestamp")))
    return one(at, text_of(document), user_of(document), None)


def text_of(body: Json) -> str | None:
    """What the proxy would count of a request: its prompt, or the last message of the user."""
    text = body.get("text")
    if isinstance(text, str):
        return text
    prompt = prompt_of_response(body) if "input" in body else prompt_of(body)
    if prompt is None:
        raise BadLine("the request has no text that can be read: no text, no prompt, no message of a user")
    return prompt.text

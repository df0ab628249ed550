"""Requests in OpenTelemetry's JSON, as the Collector's file exporter writes it: spans or log records per line. Pure.

By the semantic conventions for generative AI, the messages are in `gen_ai.input.messages` of the span of a request, of
its event, or of a log record (https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/). Instrumentation
records them only on request. Older libraries write `gen_ai.prompt.0.role` and `gen_ai.prompt.0.content`.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from driftloop.cli.detecting.moments import moment
from driftloop.cli.detecting.requests import BadLine, Line, Other, Request, Requests, one
from driftloop.contract.prompts import prompt_from

Json = dict[str, Any]
MESSAGES = "gen_ai.input.messages"
OPERATIONS = ("chat", "text_completion", "generate_content")  # an agent's own span repeats the messages
USERS = ("user.id", "enduser.id")
_INDEXED = re.compile(r"gen_ai\.prompt\.(\d{1,6})\.(role|content)")


def is_otlp(document: Json) -> bool:
    """Whether the object is OTLP's JSON."""
    return any(field in document for field in ("resourceSpans", "resourceLogs", "resourceMetrics"))


def parse(document: Json) -> Line:
    """The requests in the line. Spans and records without messages are something else. Raises BadLine."""
    found: list[Request] = []
    fault: BadLine | None = None
    for record, attributes in _records(document):
        try:
            found += _requests(record, attributes)
        except BadLine as error:
            fault = error
    if fault is not None and not found:
        raise fault
    return Requests(tuple(found)) if found else Other()


def _requests(record: Json, attributes: Json) -> tuple[Request, ...]:
    if attributes.get("gen_ai.operation.name", OPERATIONS[0]) not in OPERATIONS:
        return ()
    messages = _messages(attributes)
    if messages is None:
        return ()
    prompt = prompt_from(messages)
    if prompt is None:
        raise BadLine(f"{MESSAGES} has no message of a user")
    at = moment(next((t for field in _TIMES if (t := record.get(field)) not in (None, "", "0", 0)), None))
    users = [attributes.get(name) for name in USERS]
    user = next((name for name in users if isinstance(name, str) and name), None)
    span = record.get("spanId")
    return one(at, prompt.text, user, span if isinstance(span, str) and span else None).requests


_TIMES = ("startTimeUnixNano", "timeUnixNano", "observedTimeUnixNano")


def _records(document: Json) -> Iterator[tuple[Json, Json]]:
    """Spans and log records, with their attributes. An event of a span counts as the span."""
    for resource in _objects(document.get("resourceSpans")):
        for scope in _objects(resource.get("scopeSpans")):
            for span in _objects(scope.get("spans")):
                attributes = _attributes(span)
                for event in _objects(span.get("events")):
                    attributes = _attributes(event) | attributes
                yield span, attributes
    for resource in _objects(document.get("resourceLogs")):
        for scope in _objects(resource.get("scopeLogs")):
            for record in _objects(scope.get("logRecords")):
                yield record, _attributes(record)


def _messages(attributes: Json) -> list[Json] | None:
    """The messages as those of a chat; None if they were not recorded. Raises BadLine."""
    recorded = attributes.get(MESSAGES)
    if recorded is None:
        return _indexed(attributes)
    if isinstance(recorded, str):
        try:
            recorded = json.loads(recorded)
        except (ValueError, RecursionError) as error:
            raise BadLine(f"{MESSAGES} is not JSON") from error
    return [{"role": message.get("role"), "content": _content(message)} for message in _objects(recorded)]


def _content(message: Json) -> str:
    """The text of a message's parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    texts = [part.get("content") for part in _objects(message.get("parts")) if part.get("type") == "text"]
    return "".join(text for text in texts if isinstance(text, str))


def _indexed(attributes: Json) -> list[Json] | None:
    messages: dict[int, Json] = {}
    for name, value in attributes.items():
        if isinstance(value, str) and (parts := _INDEXED.fullmatch(name)):
            messages.setdefault(int(parts[1]), {"role": "user", "content": ""})[parts[2]] = value
    return [messages[index] for index in sorted(messages)] or None


def _attributes(record: Json) -> Json:
    return {
        entry["key"]: _value(entry.get("value"))
        for entry in _objects(record.get("attributes"))
        if isinstance(entry.get("key"), str)
    }


def _value(value: Any) -> Any:
    """The value of an `AnyValue`: texts, lists and objects; others are not needed."""
    if not isinstance(value, dict):
        return None
    if "arrayValue" in value:
        return [_value(entry) for entry in _objects(_object(value["arrayValue"]).get("values"))]
    if "kvlistValue" in value:
        return _attributes({"attributes": _object(value["kvlistValue"]).get("values")})
    return value.get("stringValue")


def _object(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _objects(value: Any) -> list[Json]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

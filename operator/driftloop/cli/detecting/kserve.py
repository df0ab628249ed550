"""Requests that KServe's logger sends, as structured CloudEvents: one JSON object per line. Pure.

KServe sends the events by HTTP in binary mode. A sink that stores them as JSON writes this form:
https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import base64
import json
from typing import Any

from driftloop.cli.detecting.moments import moment
from driftloop.cli.detecting.plain import is_plain, text_of
from driftloop.cli.detecting.requests import BadLine, Line, Other, one, several
from driftloop.contract.shares import user_of

Json = dict[str, Any]
REQUEST = "org.kubeflow.serving.inference.request"


def is_event(document: Json) -> bool:
    """Whether the object is a CloudEvent."""
    return "specversion" in document


def parse(document: Json) -> Line:
    """The requests of an event. Events of other types, such as responses, are something else. Raises BadLine."""
    if document.get("type") != REQUEST:
        return Other()
    at, identity, body = moment(document.get("time")), document.get("id"), _body(document)
    name = identity if isinstance(identity, str) and identity else None
    if is_plain(body):
        return one(at, text_of(body), user_of(body), name)
    texts = _instances(body)
    if not texts:
        raise BadLine("the event has no text: neither an OpenAI request, nor instances or BYTES inputs of texts")
    return several(at, texts, user_of(body), name)


def _body(document: Json) -> Json:
    """The body of the HTTP request. Raises BadLine."""
    body = document.get("data")
    try:
        if isinstance(document.get("data_base64"), str):
            body = base64.b64decode(document["data_base64"], validate=True).decode()
        if isinstance(body, str):
            body = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise BadLine("the event's data is not JSON") from error
    if not isinstance(body, dict):
        raise BadLine("the event's data is not a JSON object")
    return body


def _instances(body: Json) -> list[str]:
    """The texts in KServe's own protocols: `instances` of version 1, `inputs` of the type BYTES of version 2."""
    instances, inputs = body.get("instances"), body.get("inputs")
    values = list(instances) if isinstance(instances, list) else []
    for tensor in inputs if isinstance(inputs, list) else []:
        if isinstance(tensor, dict) and tensor.get("datatype") == "BYTES" and isinstance(tensor.get("data"), list):
            values += tensor["data"]
    return [value for value in values if isinstance(value, str)]

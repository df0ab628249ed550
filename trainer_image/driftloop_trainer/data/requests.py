"""Reads requests to the API that users have recorded."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from driftloop.api.evaluation import Contract
from driftloop.contract.names import GENERATING
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.verified import fetch_verified

COMPLETIONS, CHAT, RESPONSES = GENERATING
EMBEDDINGS = "/v1/embeddings"
_PATHS = (*GENERATING, EMBEDDINGS)

Body = Mapping[str, Any]


@dataclass(frozen=True)
class Request:
    """A request to the API. `is_refused`: the right answer is an error in OpenAI's form."""

    name: str
    path: str
    body: Body
    is_refused: bool = False


def load_requests(contract: Contract, scratch: Path) -> list[Request]:
    """The recorded requests, at most `maxRequests`, verified against the digest.

    Raises StageFailure that names the line and the fix, or StorageError if the file can't be fetched.
    """
    path = fetch_verified(contract.uri, contract.digest, scratch, "evaluation.contract")
    try:
        with path.open(encoding="utf-8") as lines:  # recorded traffic may be larger than the memory
            recorded = (_recorded(number, line) for number, line in enumerate(lines, 1) if line.strip())
            requests = _distinct(islice(recorded, contract.max_requests))
    except (ValueError, RecursionError) as error:
        raise StageFailure(StageReason.BAD_ITEMS, f"evaluation.contract: {contract.uri}: {error}") from error
    if not requests:
        raise StageFailure(StageReason.NO_ITEMS, f"evaluation.contract: {contract.uri} has no requests")
    return requests


def _distinct(requests: Iterable[tuple[int, Request]]) -> list[Request]:
    """The requests by their names. Raises ValueError if two have the same."""
    found: dict[str, Request] = {}
    for number, request in requests:
        if request.name in found:
            raise ValueError(f"line {number}: another request has the id {request.name!r}")
        found[request.name] = request
    return list(found.values())


def _recorded(number: int, line: str) -> tuple[int, Request]:
    """The request in a line of JSON: the body, or an object with path, body and an optional id. Raises ValueError."""
    try:
        document = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ValueError(f"line {number}: must be an object: a request, or one with path and body")
    body = document.get("body", document)
    path = document.get("path") if "body" in document else None
    if not isinstance(body, dict):
        raise ValueError(f"line {number}: body must be an object")
    path = path or _path_of(body)
    if path not in _PATHS:
        raise ValueError(f"line {number}: path must be one of {', '.join(_PATHS)}")
    name = document.get("id") if "body" in document else None
    return number, Request(str(name or f"line {number}"), path, body)


def _path_of(body: Body) -> str | None:
    return CHAT if "messages" in body else COMPLETIONS if "prompt" in body else RESPONSES if "input" in body else None

"""The clients of a service that asks for API keys: whom a key belongs to, and how many requests it may send.

A Secret has one entry per client: the name of the client, and the SHA-256 of its keys with its limit. So nobody who can
read the Secret, or a backup of it, learns a key. SHA-256 is enough only because keys are random: there is nothing to
guess that a slow hash would protect. Kubernetes updates the mounted folder within about a minute.
"""

import hashlib
import hmac
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aiohttp import web
from pydantic import ConfigDict, Field, ValidationError

from driftloop.api.base import ApiModel
from driftloop.contract.names import API_KEYS_DIR, SHADOW_HEADER
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput
from driftloop_server.openai_api import ApiError, Handler, error_response

log = logging.getLogger(__name__)

CLIENT_NAME = web.RequestKey("client", str)  # set by `KeyCheck` on each request that may pass
COPIED = web.RequestKey("copied", bool)  # set by `KeyCheck`: a copy of a request to another pod
API_KEYS_ENV = "DRIFTLOOP_API_KEYS"  # replaces API_KEYS_DIR outside a pod
MAX_CLIENTS = 1000
RELOAD_SECONDS = 10.0
_MAX_ENTRY = 4096  # bytes
_BEARER = "Bearer "


class Entry(ApiModel):
    """One entry of the Secret, as JSON."""

    model_config = ConfigDict(extra="forbid")  # a limit with a wrong name would be none
    sha256: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]] = Field(min_length=1, max_length=8)
    requests_per_minute: int | None = Field(None, ge=1, le=1_000_000)  # None: no limit


@dataclass(frozen=True)
class Client:
    """A client of the service."""

    name: str
    requests_per_minute: int | None = None


class Clients:
    """The clients in a mounted Secret, read again when it changes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = folder, clock
        self._checked = clock()
        self._seen = _version(folder)
        self._by_hash = _read(folder)

    def __len__(self) -> int:
        """The number of keys."""
        return len(self._by_hash)

    def find(self, key: str) -> Client | None:
        """The client that has this key."""
        self._refresh()
        return self._by_hash.get(hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest())

    def _refresh(self) -> None:
        if self._clock() - self._checked < RELOAD_SECONDS:
            return
        self._checked = self._clock()
        if (version := _version(self._folder)) != self._seen:
            self._seen, self._by_hash = version, _read(self._folder)
            log.log(logging.INFO if self._by_hash else logging.ERROR, "API keys have changed: %d keys", len(self))


def clients_of(secret: str | None) -> Clients | None:
    """Those who may call the API; None for everybody. Raises BadInput if nobody could: the pod would never serve."""
    if secret is None:
        return None
    clients = Clients(Path(os.environ.get(API_KEYS_ENV, API_KEYS_DIR)))
    if not clients:
        raise BadInput(
            StageReason.NO_KEYS,
            f"spec.apiKeys: Secret {secret} has no API key that can be read: create it with an entry per "
            'client, such as team-a: {"sha256": ["HEX"]}',
        )
    return clients


class Quota:
    """A token bucket per client: a minute's requests at once, then one after another."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._free_at: dict[str, float] = {}  # client -> time at which its bucket is full again

    def wait(self, client: Client) -> float:
        """Take a request from the client's bucket. Returns 0, or the seconds until there is one, and takes none."""
        if client.requests_per_minute is None:
            return 0.0
        interval, now = 60.0 / client.requests_per_minute, self._clock()
        full = max(self._free_at.get(client.name, now), now) + interval
        if full - now > 60.0 + 1e-9:
            return full - now - 60.0
        self._free_at[client.name] = full
        return 0.0


class KeyCheck:
    """Lets only clients with a key in. Without `clients` everybody may enter.

    `count` is called with the name of a known client whose request is refused, and the status code.
    """

    def __init__(self, clients: Clients | None, count: Callable[[str, int], None], shadow_token: str) -> None:
        self._clients, self._count, self._shadow_token = clients, count, shadow_token.encode()
        self._quota = Quota()

    @web.middleware
    async def check(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Outside the metrics of the canary: who is refused here says nothing about a version."""
        request[COPIED] = self._is_copy(request)
        if self._clients is None or request[COPIED]:
            return await handler(request)
        client = self._clients.find(_key(request))
        if client is None:
            return error_response(_unknown(request))
        if wait := self._quota.wait(client):
            self._count(client.name, 429)
            return error_response(_too_many(client, wait))
        request[CLIENT_NAME] = client.name
        return await handler(request)

    def _is_copy(self, request: web.Request) -> bool:
        """Whether a pod of the service sends it: a copy of a user's request, to which nobody gets the answer."""
        given = request.headers.get(SHADOW_HEADER, "").encode(errors="surrogateescape")
        return hmac.compare_digest(given, self._shadow_token)


def client_of(request: web.Request) -> str:
    """Who sends the request: the name that its API key belongs to, else its address."""
    return request.get(CLIENT_NAME) or request.remote or ""


def _key(request: web.Request) -> str:
    return request.headers.get("Authorization", "").removeprefix(_BEARER).strip()


def _unknown(request: web.Request) -> ApiError:
    sent = request.headers.get("Authorization", "").startswith(_BEARER)
    message = "this API key is not known here" if sent else "an API key is needed: send Authorization: Bearer KEY"
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _too_many(client: Client, wait: float) -> ApiError:
    message = f"{client.name} may send {client.requests_per_minute} requests per minute to each pod"
    seconds = str(int(wait) + 1)
    return ApiError(429, message, code="rate_limit_exceeded", headers={"Retry-After": seconds})


def _entries(folder: Path) -> list[Path]:
    """The Secret's entries. Kubernetes keeps its own links and folders beside them, whose names begin with two dots."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("..") and path.is_file())
    except OSError:
        return []


def _version(folder: Path) -> list[tuple[str, int]]:
    """What changes when the Secret does. Kubernetes writes all entries anew, and replaces them in one step."""
    try:
        return [(path.name, path.stat().st_mtime_ns) for path in _entries(folder)]
    except OSError:  # replaced while it was read
        return []


def _read(folder: Path) -> dict[str, Client]:
    """The clients by the hashes of their keys. An entry that can't be read is left out, with a line in the log."""
    by_digest: dict[str, Client] = {}
    entries = _entries(folder)
    if len(entries) > MAX_CLIENTS:
        log.error("%d clients: only the first %d by name are let in", len(entries), MAX_CLIENTS)
    for path in entries[:MAX_CLIENTS]:
        try:
            with path.open("rb") as file:
                entry = Entry.model_validate_json(file.read(_MAX_ENTRY))
        except (OSError, ValidationError) as error:
            log.error("API key %s is left out: %s", path.name, _fault(error))
            continue
        for digest in entry.sha256:
            if digest in by_digest:
                log.error("API key %s is left out: %s has the same", path.name, by_digest[digest].name)
            by_digest.setdefault(digest, Client(path.name, entry.requests_per_minute))
    return by_digest


def _fault(error: OSError | ValidationError) -> str:
    """What is wrong, without the entry's content: it could be a key by mistake."""
    if isinstance(error, OSError):
        return error.strerror or "can't be read"
    (first, *_) = error.errors(include_input=False)
    return f"{'.'.join(map(str, first['loc'])) or 'the entry'}: {first['msg']}"

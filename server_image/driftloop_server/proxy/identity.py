"""Signed response ids: any pod of a service can tell that it, or another one, gave this answer. Pure.

An id holds version and revision, the time and a hash of the prompt. The hash makes it self-sufficient: a pod that did
not give the answer takes the prompt from whoever has it and checks that it is the one. The answer is not signed: of a
stream the id leaves before the answer is known.
"""

import base64
import hashlib
import hmac
import secrets
import struct
from dataclasses import dataclass

_PREFIX = "resp-"
_HEAD = struct.Struct(">BI16s6s")  # format, seconds since 1970, hash of the prompt, nonce
_FORMAT = 1
_SIGNATURE = 16  # bytes of the HMAC: 128 bits
_MAX_LENGTH = 512  # of an id that is looked at


class Forged(ValueError):
    """The id is not one that this service gave."""


@dataclass(frozen=True, slots=True)
class ResponseId:
    """What an id says."""

    version: str
    revision: str
    created: int
    prompt: bytes


class Signer:
    """Gives and reads the ids of one service. All its pods have the same `key`."""

    def __init__(self, key: bytes, service_uid: str) -> None:
        self._key = hmac.digest(key, b"driftloop response id " + service_uid.encode(), "sha256")
        self._user_key = hmac.digest(key, b"driftloop user " + service_uid.encode(), "sha256")

    def sign(self, version: str, revision: str, prompt: bytes, now: float) -> str:
        """A new id for an answer; `prompt` is the 16-byte hash of what was asked."""
        payload = _HEAD.pack(_FORMAT, int(now), prompt, secrets.token_bytes(6)) + f"{version}/{revision}".encode()
        return f"{_PREFIX}{_encode(payload)}.{_encode(self._signature(payload))}"

    def read(self, identity: str) -> ResponseId:
        """What `identity` says. Raises Forged."""
        try:
            payload_text, signature_text = identity[:_MAX_LENGTH].removeprefix(_PREFIX).split(".")
            payload, signature = _decode(payload_text), _decode(signature_text)
        except ValueError as error:
            raise Forged("not a response id") from error
        if not hmac.compare_digest(signature, self._signature(payload)):
            raise Forged("the signature is not this service's")
        _, created, prompt, _ = _HEAD.unpack_from(payload)
        version, _, revision = payload[_HEAD.size :].decode().partition("/")
        return ResponseId(version, revision, created, prompt)

    def pseudonym(self, user: str) -> str:
        """A user's name that can't be turned back without the key; the same in every pod. 32 hex digits."""
        return hmac.new(self._user_key, user.encode(), hashlib.sha256).hexdigest()[:32]

    def _signature(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")[:_SIGNATURE]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

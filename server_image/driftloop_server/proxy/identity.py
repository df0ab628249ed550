"""Signed response ids: any pod of a service can check that one of its pods gave an answer. Pure.

An id contains version, revision, time and a hash of the prompt. With the hash a pod that did not give the answer can
check a prompt that the client sends again. The answer is not signed: the id of a stream is sent before its end.
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
_MAX_LENGTH = 512  # characters; the rest of a longer id is ignored


class Forged(ValueError):
    """The id was not issued by this service."""


@dataclass(frozen=True, slots=True)
class ResponseId:
    """The content of an id. `prompt` is a hash, `created` in seconds since 1970."""

    version: str
    revision: str
    created: int
    prompt: bytes


class Signer:
    """Issues and reads the ids of one service. All its pods have the same `key`."""

    def __init__(self, key: bytes, service_uid: str) -> None:
        self._key = hmac.digest(key, b"driftloop response id " + service_uid.encode(), "sha256")
        # The pods of the service know each other by it.
        self.shadow_token = hmac.new(key, b"driftloop shadow " + service_uid.encode(), "sha256").hexdigest()
        self._user_key = hmac.digest(key, b"driftloop user " + service_uid.encode(), "sha256")

    def sign(self, version: str, revision: str, prompt: bytes, now: float) -> str:
        """Issue an id for an answer. `prompt` is the 16-byte hash of the prompt."""
        payload = _HEAD.pack(_FORMAT, int(now), prompt, secrets.token_bytes(6)) + f"{version}/{revision}".encode()
        return f"{_PREFIX}{_encode(payload)}.{_encode(self._signature(payload))}"

    def read(self, identity: str) -> ResponseId:
        """Verify and decode an id. Raises Forged."""
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
        """A keyed hash of a user's name as 32 hex digits, the same in every pod."""
        return hmac.new(self._user_key, user.encode(), hashlib.sha256).hexdigest()[:32]

    def _signature(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")[:_SIGNATURE]


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)

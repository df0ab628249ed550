"""The file of `--state`: the profile, the detector's status, and which requests count. No prompt is in it.

The profile has words and pairs of words that several texts of the reference share. Texts and users of the last requests
are fingerprints of 16 bits under a secret of the file: enough to recognise a repeated text, but any text has the
fingerprint of one of them by chance in one case of 130, so they do not tell whether a text was there.
"""

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from driftloop.api.inferenceservice import DriftStatus
from driftloop.cli.manifests import BadInput
from driftloop.contract.shares import WINDOW, Shares
from driftloop.contract.textstats import parse_profile

VERSION = 1


class State(BaseModel):
    """What a later run needs."""

    model_config = ConfigDict(extra="forbid")

    version: int = VERSION
    source: str  # of the profile or the counters; a state is of no use for another one
    profile: dict[str, Any] | None = None
    status: DriftStatus = DriftStatus()
    key: str = Field(default_factory=lambda: secrets.token_hex(16), pattern=r"[0-9a-f]{32}")
    last: list[tuple[int | None, int | None]] = Field(default=[], max_length=WINDOW)


def read(path: Path, source: str) -> State:
    """The state in a file; a new one if there is no file. Raises BadInput."""
    try:
        state = State.model_validate(json.loads(path.read_text()))
        if state.profile is not None:
            parse_profile(state.profile)
    except FileNotFoundError:
        return State(source=source)
    except OSError as error:
        raise BadInput(f"--state: {path}: {error.strerror}") from error
    except (ValidationError, ValueError, RecursionError) as error:
        raise BadInput(f"--state: {path} is not a state of this command. Remove it to begin anew") from error
    if state.version != VERSION:
        raise BadInput(f"--state: {path} is of another release (format {state.version}). Remove it to begin anew")
    if state.source != source:
        raise BadInput(f"--state: {path} is about {state.source}, not {source}. Use another file, or remove it")
    return state


def write(path: Path, state: State) -> None:
    """Replace the file, which only its owner can read. Raises BadInput."""
    temporary = path.with_name(f"{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w") as stream:
            stream.write(state.model_dump_json(by_alias=True))
            stream.flush()
            os.fsync(descriptor)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"--state: {path}: {error.strerror}") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Keep other runs away from the state. Raises BadInput if one uses it."""
    try:
        stream = path.with_name(f"{path.name}.lock").open("w")
    except OSError as error:
        raise BadInput(f"--state: {path}: {error.strerror}") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BadInput(f"--state: {path} is in use by another run") from error
        yield


def shares_of(state: State) -> Shares:
    """Which requests count, as it was when the state was written."""
    return Shares(fingerprint(state.key), state.last)


def fingerprint(key: str) -> Callable[[str], int]:
    """A function from texts to 16 bits."""
    secret = bytes.fromhex(key)

    def hashed(text: str) -> int:
        return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=2, key=secret).digest())

    return hashed

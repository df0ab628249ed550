"""Fetches a file whose digest may be known."""

from pathlib import Path

from driftloop.contract.manifest import file_sha256
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import fetch_file


def fetch_verified(uri: str, digest: str | None, scratch: Path, what: str) -> Path:
    """The file, in `scratch` unless it is on a claim. `what` begins the message about another digest.

    Raises StageFailure if it has another digest, or StorageError if it can't be fetched.
    """
    path = fetch_file(uri, scratch)
    if digest is not None and digest != (found := f"sha256:{file_sha256(path)}"):
        message = f"{what}: {uri} has {found}, expected {digest}: the file has changed"
        raise StageFailure(StageReason.DIGEST_MISMATCH, message)
    return path

"""Split and join URIs of users' storage. Nothing is opened here."""

import re
from collections.abc import Iterable

_REVISION = re.compile(r"@[^/]*")
_COMMIT = re.compile(r"@[0-9a-f]{40}(/|$)")


def join(uri: str, *parts: str) -> str:
    """`uri` with `parts` appended to its path.

    >>> join("s3://bucket/team/", "versions", "/0a1b/")
    's3://bucket/team/versions/0a1b'
    """
    return "/".join([uri.rstrip("/"), *(part.strip("/") for part in parts)])


def claim_of(uri: str) -> str | None:
    """The PersistentVolumeClaim in a `pvc://claim/path` URI; None for other schemes.

    >>> claim_of("pvc://shared/desk"), claim_of("s3://shared/desk")
    ('shared', None)
    """
    scheme, _, rest = uri.partition("://")
    return rest.split("/", 1)[0] if scheme == "pvc" else None


def claims_of(uris: Iterable[str | None]) -> list[str]:
    """The claims that `uris` name: sorted, without duplicates."""
    return sorted({claim for uri in uris if uri and (claim := claim_of(uri))})


def repository(uri: str) -> str:
    """`uri` without the revision of a repository of the Hugging Face Hub.

    >>> repository("hf://org/model@main/part"), repository("s3://bucket/model@main")
    ('hf://org/model/part', 's3://bucket/model@main')
    """
    return _REVISION.sub("", uri, count=1) if uri.startswith("hf://") else uri


def is_pinned(uri: str) -> bool:
    """Whether nothing else can be at `uri` later because it names a commit of the Hub.

    >>> is_pinned(f"hf://org/model@{'0a' * 20}/part"), is_pinned("hf://org/model@main"), is_pinned("s3://bucket")
    (True, False, False)
    """
    return uri.startswith("hf://") and _COMMIT.search(uri) is not None

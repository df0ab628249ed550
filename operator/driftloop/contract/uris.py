"""Split and join URIs of users' storage. Nothing is opened here."""

from collections.abc import Iterable


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

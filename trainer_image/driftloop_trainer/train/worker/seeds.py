"""Seeds of random numbers that do not depend on the grid of workers."""

import hashlib


def seed_of(*parts: object) -> int:
    """A seed for torch, another one for other parts. Pure."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1

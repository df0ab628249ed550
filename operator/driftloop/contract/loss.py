"""How much of a micro-batch's logits exists at a time, for the plan and for the trainer. Pure."""

LOGITS_BYTES = 256 << 20  # in float32, unless the job sets another size
_FLOAT = 4  # bytes
_FEWEST = 64  # tokens; fewer make the matrix product slow


def chunk_tokens(vocab_size: int, most: int = LOGITS_BYTES) -> int:
    """Tokens whose logits are computed at a time: those that `most` bytes hold in float32, but not fewer than 64.

    >>> chunk_tokens(128_256), chunk_tokens(128_256, 64 << 20), chunk_tokens(128_256, 1 << 20)
    (523, 130, 64)
    """
    return max(_FEWEST, most // (_FLOAT * max(1, vocab_size)))

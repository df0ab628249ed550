"""How much of a micro-batch's logits exists at a time, for the plan and for the trainer. Pure."""

LOGITS_BYTES = 256 << 20  # in float32
_FLOAT = 4  # bytes
_FEWEST = 64  # tokens; fewer make the matrix product slow


def chunk_tokens(vocab_size: int) -> int:
    """Tokens whose logits are computed at a time.

    >>> chunk_tokens(128_256)
    523
    """
    return max(_FEWEST, LOGITS_BYTES // (_FLOAT * max(1, vocab_size)))

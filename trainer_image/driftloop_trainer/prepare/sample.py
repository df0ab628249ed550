"""Shows an example in a readable form. Pure."""

from itertools import pairwise
from typing import Any

from driftloop_trainer.prepare.render import Example

OPEN, CLOSE = "⟦", "⟧"
_EACH_SIDE = 400  # tokens shown before and after the first token that counts


def sample(example: Example, tokenizer: Any) -> str:
    """The text around the first token that counts in the loss, with special tokens. ⟦ and ⟧ mark what counts."""
    first = example.spans[0][0] if example.spans else 0
    start, end = max(0, first - _EACH_SIDE), min(len(example.ids), first + _EACH_SIDE)
    borders = sorted({start, end, *(at for span in example.spans for at in span if start < at < end)})
    parts = [
        (tokenizer.decode(example.ids[one:other], clean_up_tokenization_spaces=False), _counts(example, one))
        for one, other in pairwise(borders)
    ]
    text = "".join(f"{OPEN}{part}{CLOSE}" if counts else part for part, counts in parts).replace(CLOSE + OPEN, "")
    return f"{'…' if start else ''}{text}{'…' if end < len(example.ids) else ''}"


def _counts(example: Example, position: int) -> bool:
    return any(start <= position < end for start, end in example.spans)

"""Rules about a row's text that training and serving must share to the letter. Pure."""

import hashlib
import re
import unicodedata
from typing import Literal

Side = Literal["train", "heldOut"]

_SPACE = re.compile(r"\s+")


def normalise(text: str) -> str:
    """NFKC, one space between words, none around: the form in which rows are kept and compared."""
    return _SPACE.sub(" ", unicodedata.normalize("NFKC", text)).strip()


def row_key(text: str) -> str:
    """Identity of a row: the hash of its prompt (or text), normalised and case-folded. Hex, 64 characters."""
    return hashlib.sha256(normalise(text).casefold().encode()).hexdigest()


def side(family: str, text: str, held_out_percent: int) -> Side:
    """Which side of the family's fence a row lies on: the same in every job and every pod, for ever.

    The family's name salts the hash. Raising `held_out_percent` moves rows only from train to held-out.
    """
    digest = hashlib.sha256(f"{family}\0{row_key(text)}".encode()).digest()
    return "heldOut" if int.from_bytes(digest[:8], "big") < held_out_percent * 2**64 // 100 else "train"

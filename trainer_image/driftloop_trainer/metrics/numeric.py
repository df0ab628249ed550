"""numeric: the last number of the answer is that of the completion. Pure."""

import math
import re

# Not within a word or another number (H2O, v1.2.3, 2026-11). A comma separates groups of three digits.
_NUMBER = re.compile(
    r"(?<![\w.])[-+\u2212]?"
    r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?!,?[0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
    r"(?:[eE][-+]?[0-9]{1,3})?"
)


def numeric(expected: str, answer: str, tolerance: float = 0.0, relative_tolerance: float = 0.0) -> float:
    """1.0 if the last numbers of both texts differ by at most the larger tolerance, else 0.0."""
    right, given = last_number(expected), last_number(answer)
    if right is None or given is None:
        return 0.0
    return float(abs(given - right) <= max(tolerance, relative_tolerance * abs(right)))


def last_number(text: str) -> float | None:
    """The last number in a text; None if it has none, or if it is too large for a float.

    >>> last_number("From 1,200.50 EUR to -3.")
    -3.0
    """
    numbers = _NUMBER.findall(text)
    if not numbers:
        return None
    number = float(numbers[-1].replace(",", "").replace("\u2212", "-"))
    return number if math.isfinite(number) else None

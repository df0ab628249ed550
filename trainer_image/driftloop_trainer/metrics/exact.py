"""exact: the answer is the completion. contains: the completion is a part of the answer. Pure."""

from driftloop.contract.text import normalise


def exact(expected: str, answer: str, ignore_case: bool = False) -> float:
    """1.0 if the normalised texts are equal, else 0.0."""
    return float(_comparable(expected, ignore_case) == _comparable(answer, ignore_case))


def contains(expected: str, answer: str, ignore_case: bool = False) -> float:
    """1.0 if the normalised completion is anywhere in the normalised answer, also within a word, else 0.0."""
    return float(_comparable(expected, ignore_case) in _comparable(answer, ignore_case))


def _comparable(text: str, ignore_case: bool) -> str:
    return normalise(text).casefold() if ignore_case else normalise(text)

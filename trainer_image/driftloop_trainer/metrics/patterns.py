"""regex: a part of the answer is the completion, or the answer matches the completion's pattern. Pure."""

import regex

from driftloop_trainer.metrics.exact import exact

SECONDS = 1.0  # for one answer; longer patterns need an exponential number of attempts


class BadPattern(ValueError):
    """A pattern that can't be compiled, or that takes too long."""


def extracted(pattern: str, expected: str, answer: str) -> float:
    """1.0 if the last match of `pattern` in the answer, or its first group, is the completion, else 0.0.

    Raises BadPattern.
    """
    try:
        matches = list(compiled(pattern).finditer(answer, timeout=SECONDS))
    except TimeoutError as error:
        raise _slow(pattern) from error
    if not matches:
        return 0.0
    last = matches[-1]
    return exact(expected, (last.group(1) if last.re.groups else last.group()) or "")


def matched(expected: str, answer: str) -> float:
    """1.0 if the pattern `expected` matches somewhere in the answer, else 0.0. Raises BadPattern."""
    try:
        return float(compiled(expected).search(answer, timeout=SECONDS) is not None)
    except TimeoutError as error:
        raise _slow(expected) from error


def compiled(pattern: str) -> "regex.Pattern[str]":
    """The compiled pattern, from the library's cache. Raises BadPattern."""
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError) as error:
        raise BadPattern(f"{pattern[:200]!r}: {error}") from error


def _slow(pattern: str) -> BadPattern:
    return BadPattern(f"{pattern[:200]!r} needs more than {SECONDS:g} s for one answer: avoid nested repetitions")

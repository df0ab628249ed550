"""Separates the thoughts of a reasoning model from its answer, while the text arrives in pieces. Pure."""

from typing import NamedTuple

THINK = ("<think>", "</think>")  # Qwen3, DeepSeek R1 and most others


class Parts(NamedTuple):
    """New text of the thoughts and of the answer."""

    thoughts: str = ""
    answer: str = ""


class Thoughts:
    """Text between the tags is a thought if it comes first. Tags, and blanks behind them, are left out."""

    def __init__(self, begun: bool) -> None:
        """`begun`: the prompt ends with the tag that starts a thought."""
        self._start, self._end = THINK
        self._held = ""  # text that may be a part of a tag
        self._state = "thinking" if begun else "undecided"
        self._trims = begun  # whether blanks at the beginning are left out

    def push(self, text: str, last: bool) -> Parts:
        """Add text. Returns what belongs to each part for certain; with `last` all of the rest."""
        text, self._held = self._held + text, ""
        if self._state == "undecided":
            begun = text.lstrip()
            if not last and len(begun) < len(self._start) and self._start.startswith(begun):
                self._held = text
                return Parts()
            self._enter("thinking" if begun.startswith(self._start) else "answering")
            self._trims = self._state == "thinking"
            text = begun.removeprefix(self._start) if self._trims else text
        if self._state == "answering":
            return Parts(answer=self._trimmed(text))
        thoughts, ended, answer = text.partition(self._end)
        if ended:
            thoughts = self._trimmed(thoughts)
            self._enter("answering")
            return Parts(thoughts, self._trimmed(answer))
        size = 0 if last else _overlap(text, self._end)
        self._held = text[len(text) - size :]
        return Parts(thoughts=self._trimmed(text[: len(text) - size]))

    def _enter(self, state: str) -> None:
        self._state, self._trims = state, True

    def _trimmed(self, text: str) -> str:
        text = text.lstrip() if self._trims else text
        self._trims &= not text
        return text


def _overlap(text: str, tag: str) -> int:
    """Number of characters at the end of the text that may be the beginning of the tag.

    >>> [_overlap(text, "</think>") for text in ("abc", "abc<", "abc</thi", "<a")]
    [0, 1, 5, 0]
    """
    return next((size for size in range(min(len(tag) - 1, len(text)), 0, -1) if text.endswith(tag[:size])), 0)

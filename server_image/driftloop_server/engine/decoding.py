"""From tokens to text, a token at a time. Pure."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

# A tokenizer may treat the first token of a text otherwise (drop its leading space), so decoding starts a little
# before the answer. Six tokens hold every character that a byte-level tokenizer can spread over tokens.
CONTEXT_TOKENS = 6
_INCOMPLETE = "\ufffd"  # what the bytes of half a character decode to


class TokenText:
    """The text of a growing list of tokens. Tokens that end in half a character are kept until it is whole."""

    def __init__(self, decode: Decode, prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(prompt[-CONTEXT_TOKENS:])
        self._start = 0  # decoding begins here ...
        self._done = len(self._tokens)  # ... and the text up to here was returned before

    def push(self, token: int) -> str:
        """The text that `token` completes; empty while a character is incomplete."""
        self._tokens.append(token)
        text = self._pending()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return text

    def flush(self) -> str:
        """What is left at the end, half a character included."""
        text = self._pending()
        self._start = self._done = len(self._tokens)
        return text

    def _pending(self) -> str:
        before = self._decode(self._tokens[self._start : self._done])
        return self._decode(self._tokens[self._start :])[len(before) :]


class StopText:
    """Cuts a text before the first of `stops`, and holds back what may yet become one."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """The text that can be released, and whether a stop was met (nothing may be pushed after that)."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            released, self._held = self._held[: min(found)], ""
            return released, True
        safe = len(self._held) - self._undecided()
        released, self._held = self._held[:safe], self._held[safe:]
        return released, False

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        released, self._held = self._held, ""
        return released

    def _undecided(self) -> int:
        """Length of the longest end of the held text that begins a stop."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

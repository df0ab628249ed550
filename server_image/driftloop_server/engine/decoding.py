"""From tokens to text, one token at a time. Pure."""

from collections.abc import Callable, Sequence

Decode = Callable[[Sequence[int]], str]

# A tokenizer may decode the first token of a text differently (without its leading space), so decoding starts a few
# tokens before the answer. Six tokens contain any character that a byte-level tokenizer can split over several tokens.
CONTEXT_TOKENS = 6
# Tokens that are held back at most. More never become a character: special tokens, or bytes that are not UTF-8. Without
# a bound, each further token would decode all of them again, which takes seconds of the model thread for long answers.
MAX_HELD = 16
_INCOMPLETE = "\ufffd"  # the bytes of an incomplete character decode to this


class TokenText:
    """The text of a growing list of tokens. Tokens that end with an incomplete character are held back."""

    def __init__(self, decode: Decode, prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._tokens = list(prompt[-CONTEXT_TOKENS:])
        self._start = 0  # decoding begins here ...
        self._done = len(self._tokens)  # ... and the text up to here has been returned

    def push(self, token: int) -> str:
        """Add a token. Returns the new text; empty while a character is incomplete."""
        self._tokens.append(token)
        text = self._pending()
        held = len(self._tokens) - self._done
        if (not text or text.endswith(_INCOMPLETE)) and held < MAX_HELD:
            return ""
        self._start, self._done = self._done, len(self._tokens)
        return text

    def flush(self) -> str:
        """The rest of the text at the end, with an incomplete character."""
        text = self._pending()
        self._start = self._done = len(self._tokens)
        return text

    def _pending(self) -> str:
        before = self._decode(self._tokens[self._start : self._done])
        return self._decode(self._tokens[self._start :])[len(before) :]


class StopText:
    """Cuts a text before the first of `stops`, and holds back an end of the text that may become one."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text. Returns the text that can be released, and whether a stop was found; then nothing may be added."""
        self._held += text
        positions = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if positions:
            released, self._held = self._held[: min(positions)], ""
            return released, True
        safe = len(self._held) - self._undecided()
        released, self._held = self._held[:safe], self._held[safe:]
        return released, False

    def flush(self) -> str:
        """Release the text that was held back, at the end."""
        released, self._held = self._held, ""
        return released

    def _undecided(self) -> int:
        """Length of the longest suffix of the held text that a stop begins with."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0

"""One request on its way through the engine."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from driftloop_server.engine.decoding import Decode, StopText, TokenText
from driftloop_server.engine.sampling import Sampling, TokenLogprob

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What is asked for, in tokens. `logprobs` None: not wanted; n: with those of the n likeliest tokens."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stops: tuple[str, ...] = ()
    end_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    stream: bool = False


@dataclass(slots=True)
class Output:
    """Text that is new. The last one has a `finish_reason`, or an `error`."""

    text: str = ""
    tokens: int = 0  # generated so far, the end token included
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Running:
    """A generation and how far it is. `deliver` gets its outputs, in the model thread."""

    def __init__(self, generation: Generation, decode: Decode, deliver: Callable[[Output], object], now: float) -> None:
        self.generation = generation
        self.deliver = deliver
        self.random = random.Random(generation.seed)  # noqa: S311 - sampling, not secrecy
        self.cancelled = False  # set by the server, read by the model thread at its next step
        self.arrived = now
        self.last_token_at: float | None = None
        self.token = -1  # the last one chosen
        self.finish_reason: FinishReason | None = None
        self._text = TokenText(decode, generation.prompt)
        self._stop = StopText(generation.stops)
        self._pending = Output()

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self._pending.tokens

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> Output | None:
        """Take the next token. Returns what is to be delivered: at the end only, unless it streams."""
        self.token = token
        out = self._pending
        out.tokens += 1
        if logprob is not None:
            out.logprobs.append(logprob)
        if token in self.generation.end_tokens:
            self.finish_reason = "stop"
            out.text += self._rest()
        else:
            text, stopped = self._stop.push(self._text.push(token))
            out.text += text
            if stopped:
                self.finish_reason = "stop"
            elif out.tokens >= self.generation.max_tokens:
                self.finish_reason = "length"
                out.text += self._rest()
        out.finish_reason = self.finish_reason
        if not out.last and not (self.generation.stream and (out.text or out.logprobs)):
            return None
        self._pending = Output(tokens=out.tokens)
        return out

    def _rest(self) -> str:
        text, stopped = self._stop.push(self._text.flush())
        return text if stopped else text + self._stop.flush()

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
    """Text that is new. The last one has a `finish_reason`, or an `error` with its HTTP status."""

    text: str = ""
    tokens: int = 0  # generated so far, the end token included
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None
    status: int = 500

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Running:
    """A generation and how far it is. `deliver` gets its outputs, in the model thread.

    `client` is who shares its part of the engine with it; None: nobody.
    """

    def __init__(
        self,
        generation: Generation,
        decode: Decode,
        deliver: Callable[[Output], object],
        now: float,
        client: str | None = None,
    ) -> None:
        self.generation = generation
        self.client = client or f"request {id(self)}"
        self.deliver = deliver
        self._random = random.Random(generation.seed)  # noqa: S311 - sampling, not secrecy
        self._drawn: float | None = None
        self.cancelled = False  # set by the server, read by the model thread at its next step
        self.arrived = now
        self.last_token_at: float | None = None
        self.generated: list[int] = []
        self.finish_reason: FinishReason | None = None
        self._text = TokenText(decode, generation.prompt)
        self._stop = StopText(generation.stops)
        self._pending = Output()

    @property
    def tokens(self) -> int:
        """Tokens generated so far."""
        return self._pending.tokens

    @property
    def text(self) -> list[int]:
        """The tokens to read for the next one: the prompt, and what was generated before it lost its place."""
        return [*self.generation.prompt, *self.generated]

    @property
    def size(self) -> int:
        """Tokens so far, prompt and answer."""
        return len(self.generation.prompt) + len(self.generated)

    @property
    def over(self) -> bool:
        """Nothing more is generated for it."""
        return self.cancelled or self.finish_reason is not None

    def draw(self) -> float:
        """The number that chooses the next token: the same until one is accepted, so that a choice can be retried."""
        if self._drawn is None:
            self._drawn = self._random.random()
        return self._drawn

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> Output | None:
        """Take the next token. Returns what is to be delivered: at the end only, unless it streams."""
        self.generated.append(token)
        self._drawn = None
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

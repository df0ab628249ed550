"""One request on its way through the engine."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from driftloop_server.engine.decoding import Decode, StopText, TokenText
from driftloop_server.engine.sampling import Sampling, TokenLogprob

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """A request in tokens. `logprobs` None: not requested; n: also for the n likeliest tokens.

    `scored` None: log-probabilities of the prompt's tokens are not requested; n: for n tokens at a time.
    """

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    seed: int | None = None
    stops: tuple[str, ...] = ()
    end_tokens: frozenset[int] = frozenset()
    logprobs: int | None = None
    scored: int | None = None
    stream: bool = False
    thinks: bool = False  # whether the answer may begin with thoughts
    thinks_already: bool = False  # whether the prompt ends with the tag that starts them

    def choices(self, n: int) -> list["Generation"]:
        """n generations of the same prompt, each with a seed of its own."""
        return [replace(self, seed=None if self.seed is None else self.seed + index) for index in range(n)]


@dataclass(slots=True)
class Output:
    """New text of an answer. The last output has a `finish_reason`, or an `error` with its HTTP status."""

    text: str = ""
    tokens: int = 0  # generated so far, including the end token
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob] = field(default_factory=list)  # of all tokens of the prompt but the first
    finish_reason: FinishReason | None = None
    error: str | None = None
    status: int = 500

    @property
    def last(self) -> bool:
        return self.finish_reason is not None or self.error is not None


class Running:
    """A generation in progress. The model thread calls `deliver` with its outputs.

    Requests of the same `client` share one part of the engine; None: the request has a part of its own.
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
        """All tokens so far: the prompt, and what was generated before the request lost its place."""
        return [*self.generation.prompt, *self.generated]

    @property
    def size(self) -> int:
        """Number of tokens so far, prompt and answer."""
        return len(self.generation.prompt) + len(self.generated)

    @property
    def over(self) -> bool:
        """Whether no more tokens are to be generated."""
        return self.cancelled or self.finish_reason is not None

    def scored(self, scores: Sequence[TokenLogprob]) -> None:
        """Keep the log-probabilities of the prompt for the output. A prompt that is read again may have more tokens."""
        self._pending.prompt_logprobs = list(scores[: len(self.generation.prompt) - 1])

    def draw(self) -> float:
        """The random number for the next token; the same until a token is accepted, so that sampling can be retried."""
        if self._drawn is None:
            self._drawn = self._random.random()
        return self._drawn

    def accept(self, token: int, logprob: TokenLogprob | None = None) -> Output | None:
        """Add the next token. Returns an output to deliver: for a stream whenever there is text, else at the end."""
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

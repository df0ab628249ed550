"""The model thread: requests join a running batch as soon as there is a place, and leave it the moment they end."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from itertools import groupby

from torch import Tensor

from driftloop_server.engine.batch import PREFILL_TOKENS, Batch
from driftloop_server.engine.decoding import Decode
from driftloop_server.engine.metrics import EngineMetrics
from driftloop_server.engine.sampling import TokenLogprob, choose, logprobs
from driftloop_server.engine.sequence import Generation, Output, Running

log = logging.getLogger(__name__)


class QueueFull(Exception):
    """So many requests wait already that another one would only time out."""


class Scheduler:
    """Owns the batch. `submit` and `cancel` may be called from any thread; all else happens in the model thread.

    `broken` is called once if the model can't be used any more; the thread ends then.
    """

    def __init__(
        self,
        batch: Batch,
        decode: Decode,
        metrics: EngineMetrics,
        *,
        max_num_seqs: int,
        max_waiting: int,
        cache_tokens: int,
        broken: Callable[[], object],
    ) -> None:
        self._batch = batch
        self._decode = decode
        self._metrics = metrics
        self._max_num_seqs = max_num_seqs
        self._max_waiting = max_waiting
        self._cache_tokens = cache_tokens
        self._broken = broken
        self._waiting: deque[Running] = deque()
        self._joining: list[Running] = []  # taken from the queue, not in the batch yet
        self._running: list[Running] = []  # row i of the batch belongs to the i-th
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def load(self) -> int:
        """Requests running or waiting."""
        return len(self._running) + len(self._joining) + len(self._waiting)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the current step; what still runs gets an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def submit(self, generation: Generation, deliver: Callable[[Output], object]) -> Running:
        """Queue a request. Raises QueueFull."""
        request = Running(generation, self._decode, deliver, time.monotonic())
        with self._wake:
            if self._closed or len(self._waiting) >= self._max_waiting:
                raise QueueFull
            self._waiting.append(request)
            self._wake.notify()
        return request

    def cancel(self, request: Running) -> None:
        """Nobody waits for it any more: its place is free at the next step. Nothing is delivered after that."""
        request.cancelled = True

    def _run(self) -> None:
        try:
            while not self._closed:
                with self._wake:
                    self._wake.wait_for(lambda: self._closed or self._waiting or self._running)
                try:
                    self._turn()
                except Exception as error:
                    # Whatever it was, the thread lives on: the next request may be answered.
                    self._survive(error)
                    self._fail_running("the model failed; see the engine's log")
        except Exception:
            log.exception("the model does not answer any more")
            self._broken()
        finally:
            with self._wake:
                self._closed = True
            self._fail_running("the engine stops")
            while self._waiting:
                self._fail(self._waiting.popleft(), "the engine stops")

    def _survive(self, error: Exception) -> None:
        """Log a failure. Raises when the model can't take one token any more: a CUDA fault fails all that follows."""
        log.error("a step failed", exc_info=error)
        self._batch.probe()

    def _turn(self) -> None:
        self._leave()
        self._joining = self._take_waiting()
        if self._joining:
            self._join(self._joining)
            self._joining = []
            self._leave()
        if self._running:
            logits = self._batch.step([request.token for request in self._running])
            self._advance(self._running, logits)
        self._measure()

    def _leave(self) -> None:
        stay = [i for i, r in enumerate(self._running) if not (r.finish_reason or r.cancelled)]
        if len(stay) == len(self._running):
            return
        cut = sum(r.cancelled and not r.finish_reason for r in self._running)
        self._metrics.finished["abort"].inc(cut)
        self._batch.keep(stay)
        self._running = [self._running[i] for i in stay]

    def _take_waiting(self) -> list[Running]:
        """Requests for one prefill: as many as have a place, within its budget of padded tokens, one at least."""
        taken: list[Running] = []
        longest = 0
        while self._waiting and len(self._running) + len(taken) < self._max_num_seqs:
            if self._waiting[0].cancelled:
                self._waiting.popleft()
                self._metrics.finished["abort"].inc()
                continue
            longest = max(longest, len(self._waiting[0].generation.prompt))
            if taken and longest * (len(taken) + 1) > PREFILL_TOKENS:
                break
            taken.append(self._waiting.popleft())
        return taken

    def _join(self, newcomers: list[Running]) -> None:
        try:
            logits = self._batch.join([request.generation.prompt for request in newcomers])
        except Exception as error:
            if len(newcomers) == 1:
                self._fail(newcomers[0], f"the model failed on this prompt: {type(error).__name__}")
                self._survive(error)
                return
            for request in newcomers:  # one of them may be to blame: the others shall not suffer
                self._join([request])
            return
        self._running += newcomers
        for request in newcomers:
            self._metrics.prompt_tokens.inc(len(request.generation.prompt))
        self._advance(newcomers, logits)

    def _advance(self, requests: Sequence[Running], logits: Tensor) -> None:
        tokens = choose(logits, [r.generation.sampling for r in requests], [r.random for r in requests])
        scores = _scores(requests, tokens, logits)
        now = time.monotonic()
        for i, (request, token) in enumerate(zip(requests, tokens, strict=True)):
            if request.finish_reason or request.cancelled:
                continue
            if token is None:
                self._fail(request, "the model's output is not a number: its weights are broken")
                continue
            since = request.last_token_at
            histogram = self._metrics.first_token if since is None else self._metrics.between_tokens
            histogram.observe(now - (request.arrived if since is None else since))
            request.last_token_at = now
            self._metrics.generation_tokens.inc()
            output = request.accept(token, scores.get(i))
            if request.finish_reason:
                self._metrics.finished[request.finish_reason].inc()
                self._metrics.duration.observe(now - request.arrived)
            if output:
                request.deliver(output)

    def _measure(self) -> None:
        self._metrics.running.set(len(self._running))
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.cache_usage.set(self._batch.tokens / self._cache_tokens)

    def _fail(self, request: Running, message: str) -> None:
        request.deliver(Output(error=message, tokens=request.tokens))
        request.cancelled = True

    def _fail_running(self, message: str) -> None:
        for request in (*self._running, *self._joining):
            if not (request.finish_reason or request.cancelled):
                self._fail(request, message)
        self._running, self._joining = [], []
        self._batch.clear()
        self._measure()


def _scores(requests: Sequence[Running], tokens: Sequence[int | None], logits: Tensor) -> dict[int, TokenLogprob]:
    """Log-probabilities for the rows that want them, by row."""
    wanted = [(request.generation.logprobs, i, tokens[i]) for i, request in enumerate(requests)]
    asked = sorted((top, i, token) for top, i, token in wanted if top is not None and token is not None)
    found: dict[int, TokenLogprob] = {}
    for top, group in groupby(asked, key=lambda item: item[0]):
        rows = list(group)
        scored = logprobs(logits, [i for _, i, _ in rows], [token for _, _, token in rows], top)
        found |= dict(zip((i for _, i, _ in rows), scored, strict=True))
    return found

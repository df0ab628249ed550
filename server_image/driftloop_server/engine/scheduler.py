"""The model thread: requests join the batch when there is room, share the model's time, and leave when they end.

One request never harms another: a failure of one row fails only its request, a long prompt is read in pieces between
the steps of the others, and when memory runs out the newest requests go back to the queue.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import assert_never

import torch
from torch import Tensor

from driftloop_server.engine.batch import Batch, Lane, Prefill
from driftloop_server.engine.cache import Block, cells_for
from driftloop_server.engine.decoding import Decode
from driftloop_server.engine.metrics import EngineMetrics
from driftloop_server.engine.sampling import TokenLogprob, choose, logprobs
from driftloop_server.engine.sequence import Generation, Output, Running
from driftloop_server.engine.turns import Pace, charge, pick, shares, weights

log = logging.getLogger(__name__)

LONG = 512  # tokens: longer prompts are read one after another, and shorter ones may overtake them
Choice = tuple[int, TokenLogprob | None]
QUEUE_FULL = "too many requests are waiting: try again"
BUSY_PLACES = 0.75  # share of the places that one client can have while other clients are active
ABOUT = 60.0  # seconds after its last request for which a client counts as active
PATIENCE = 5.0  # seconds for which shorter prompts may overtake a long one that has no room


class QueueFull(Exception):
    """So many requests are waiting that another one would only time out."""


class Scheduler:
    """Owns the batch. `submit` and `cancel` may be called from any thread; everything else runs in the model thread.

    `cache_cells` is the size of the cache in tokens. `broken` is called once if the model stops working; the thread
    ends then.
    """

    def __init__(
        self,
        batch: Batch[Running],
        decode: Decode,
        metrics: EngineMetrics,
        *,
        max_num_seqs: int,
        max_waiting: int,
        cache_cells: int,
        broken: Callable[[], object],
    ) -> None:
        self._batch = batch
        self._decode = decode
        self._metrics = metrics
        self._max_num_seqs = max_num_seqs
        self._max_waiting = max_waiting
        self._cache_cells = cache_cells
        self._broken = broken
        self._pace = Pace()
        self._waiting: list[Running] = []  # in order of arrival
        self._lanes: dict[tuple[str, bool], Lane[Running]] = {}  # by client and whether it is for long prompts
        self._seen: dict[str, float] = {}  # time of each client's last request, the oldest first
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    @property
    def load(self) -> int:
        """Requests running or waiting."""
        return len(self._active()) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """Requests that have not started."""
        return len(self._waiting)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop after the current step. Requests that still run get an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join(timeout=30)

    def submit(self, generation: Generation, deliver: Callable[[Output], object], client: str | None = None) -> Running:
        """Queue a request. Raises QueueFull."""
        request = Running(generation, self._decode, deliver, time.monotonic(), client)
        with self._wake:
            if self._closed:
                raise QueueFull
            if len(self._waiting) >= self._max_waiting:
                self._make_way(request)
            if client is not None:
                self._see(request)
            self._waiting.append(request)
            self._wake.notify()
        return request

    def _make_way(self, newcomer: Running) -> None:
        """Drop the newest request of the client with the most requests in the full queue.

        Raises QueueFull if that is the newcomer's own client.
        """
        queued = Counter(request.client for request in [newcomer, *self._waiting])
        client, most = queued.most_common(1)[0]
        if most <= queued[newcomer.client]:
            raise QueueFull
        victim = next(request for request in reversed(self._waiting) if request.client == client)
        self._waiting.remove(victim)
        self._fail(victim, QUEUE_FULL, status=429)

    def cancel(self, request: Running) -> None:
        """Cancel a request whose client has left. If it runs, it gives up its place at the next turn."""
        request.cancelled = True
        with self._wake:
            if request in self._waiting:
                self._waiting.remove(request)
                self._metrics.finished["abort"].inc()

    def _run(self) -> None:
        try:
            while not self._closed:
                with self._wake:
                    self._wake.wait_for(lambda: self._closed or self._waiting or self._works())
                try:
                    self._turn()
                except Exception as error:
                    # The thread goes on after any error: the next request may succeed.
                    self._fail_active("the model failed; see the engine's log")
                    self._survive(error)
        except Exception:
            log.exception("the model stopped working")
            self._broken()
        finally:
            with self._wake:
                self._closed = True
                waiting, self._waiting = self._waiting, []
            self._fail_active("the engine stops")
            for request in waiting:
                self._fail(request, "the engine stops")

    def _survive(self, error: Exception) -> None:
        """Log a failure. Raises if the model doesn't work any more: after a CUDA error all further calls fail."""
        log.error("a step failed", exc_info=error)
        self._batch.probe()

    def _works(self) -> list[Lane[Running] | Block[Running]]:
        return [*self._batch.blocks, *(lane for lane in self._lanes.values() if lane.prefills)]

    def _active(self) -> list[Running]:
        return [request for work in self._works() for request in work.owners]

    def _turn(self) -> None:
        self._leave()
        self._fit()
        self._admit()
        works = self._works()
        if works:
            self._work(works)
            self._leave()
        self._measure()

    def _work(self, works: Sequence[Lane[Running] | Block[Running]]) -> None:
        """Run the work whose turn it is, for one step or one piece of a prompt."""
        work, began = pick(works), time.monotonic()
        clients = [[request.client for request in candidate.owners] for candidate in works]
        share = shares(weights(clients))[works.index(work)]
        try:
            match work:
                case Lane():
                    self._read(work, alone=len(works) == 1)
                case Block():
                    self._step(work)
                case never:
                    assert_never(never)
        except Exception as error:
            if not _out_of_memory(error):
                raise
            self._relieve(error)
        charge(work, share, time.monotonic() - began)

    def _leave(self) -> None:
        """Remove the requests that have ended or were cancelled."""
        self._metrics.finished["abort"].inc(sum(request.cancelled for request in self._active()))
        for block in self._batch.blocks:
            for row in reversed(range(len(block))):
                if block.owners[row].over:
                    block.remove(row)
        self._batch.sweep()
        for lane in self._lanes.values():
            for prefill in [p for p in lane.prefills if any(request.over for request in p.owners)]:
                lane.prefills.remove(prefill)
                self._begin([request for request in prefill.owners if not request.over])
        floor = self._floor()
        self._lanes = {
            key: lane for key, lane in self._lanes.items() if lane.prefills or (floor is not None and lane.owes(floor))
        }

    def _floor(self) -> float | None:
        """The least time, relative to its share, that any block of rows has had; None without rows."""
        return min((block.spent or 0.0 for block in self._batch.blocks), default=None)

    def _admit(self) -> None:
        """Start as many waiting requests as fit: a client's short ones together, long ones alone."""
        with self._wake:
            taken = self._chosen() if self._waiting else []
            self._waiting = [request for request in self._waiting if request not in taken]
        pace = self._pace.tokens(alone=not self._works())
        for _, same in groupby(sorted(taken, key=_lane), key=_lane):
            together: list[Running] = []
            for request in same:
                longest = max(r.size for r in [*together, request])
                if together and longest * (len(together) + 1) > pace:
                    self._begin(together)
                    together = []
                together.append(request)
            self._begin(together)

    def _begin(self, requests: Sequence[Running]) -> None:
        together = [request for request in requests if not request.generation.scored]
        for group in ([request] for request in requests if request.generation.scored):
            self._queue(Prefill(self._batch.forward, group, [group[0].text], group[0].generation.scored))
        if together:
            self._queue(Prefill(self._batch.forward, together, [request.text for request in together]))

    def _queue(self, prefill: Prefill[Running]) -> None:
        self._lanes.setdefault(_lane(prefill.owners[0]), Lane()).prefills.append(prefill)

    def _chosen(self) -> list[Running]:
        """The waiting requests to start now. Clients with the fewest running ones are first, then earlier arrivals."""
        taken: list[Running] = []
        active = self._active()
        places, room = self._max_num_seqs - len(active), self._cache_cells - self._cells()
        has = Counter(request.client for request in active)
        reading = {client for (client, is_long), lane in self._lanes.items() if is_long and lane.prefills}
        now, busy = time.monotonic(), self._most_places()
        waiting = list(self._waiting)
        while waiting and len(taken) < places:
            request = min(waiting, key=lambda r: (has[r.client], r.arrived))
            waiting.remove(request)
            is_long, needed = request.size > LONG, cells_for(request.size + 1)
            if (is_long and request.client in reading) or has[request.client] >= busy:
                continue
            if needed > room and (taken or active):
                if is_long and now - request.arrived < PATIENCE:
                    continue
                break
            taken.append(request)
            has[request.client] += 1
            room -= needed
            if is_long:
                reading.add(request.client)
        return taken

    def _most_places(self) -> int:
        """Places that one client may have. Not all while other clients are active, as they would have to wait."""
        return self._max_num_seqs if len(self._seen) < 2 else max(1, int(self._max_num_seqs * BUSY_PLACES))

    def _see(self, request: Running) -> None:
        """Remember which clients are active."""
        self._seen.pop(request.client, None)
        self._seen[request.client] = request.arrived
        while next(iter(self._seen.values())) < request.arrived - ABOUT:
            del self._seen[next(iter(self._seen))]

    def _cells(self) -> int:
        reading = (request for lane in self._lanes.values() for request in lane.owners)
        return self._batch.cells + sum(cells_for(request.size + 1) for request in reading)

    def _read(self, lane: Lane[Running], alone: bool) -> None:
        """Read a piece of a prompt. After the last piece the request gets its first token and its place."""
        prefill = lane.first
        began, left = time.monotonic(), prefill.remaining
        try:
            logits = prefill.advance(self._pace.tokens(alone))
        except Exception as error:
            if _out_of_memory(error):
                raise
            lane.prefills.remove(prefill)
            self._read_apart(prefill, error)
            return
        read = left - prefill.remaining
        if logits is None:
            self._batch.forward.wait()
        else:
            lane.prefills.remove(prefill)
            self._join(prefill, logits)
        self._pace.read(read, time.monotonic() - began)

    def _read_apart(self, prefill: Prefill[Running], error: Exception) -> None:
        """Read each prompt alone after a failure, so that only the faulty one fails."""
        if len(prefill) > 1:
            for request in prefill.owners:
                self._begin([request])
            return
        self._fail(prefill.owners[0], f"the model failed on this prompt: {type(error).__name__}")
        self._survive(error)

    def _join(self, prefill: Prefill[Running], logits: Tensor) -> None:
        newcomers = list(prefill.owners)
        try:
            choices = self._choose(newcomers, logits)
            self._batch.place(prefill)
        except Exception as error:
            for request in newcomers:
                if _out_of_memory(error):
                    self._evict(request)  # a row without its next token can't continue
                else:
                    self._fail(request, f"the model failed on this prompt: {type(error).__name__}")
            for request in prefill.owners:
                self._wait_again(request)
            raise
        for request in newcomers:
            request.scored(prefill.scores)
            if not request.generated:
                self._metrics.prompt_tokens.inc(request.size)
        self._accept(newcomers, choices)

    def _step(self, block: Block[Running]) -> None:
        """Generate one more token for each row of a block."""
        self._batch.promote(block)
        owners = list(block.owners)
        if not owners:
            return
        began = time.monotonic()
        tokens = [[request.generated[-1]] for request in owners]
        try:
            logits = block.append(tokens)
        except Exception as error:
            if _out_of_memory(error):
                raise
            owners, logits = self._step_apart(block, tokens, error)
        choices = self._choose(owners, logits)
        block.commit([1] * len(block))
        self._accept(owners, choices)
        self._pace.stepped(time.monotonic() - began)

    def _step_apart(
        self, block: Block[Running], tokens: Sequence[list[int]], error: Exception
    ) -> tuple[list[Running], Tensor]:
        """Repeat a failed step row by row, so that only the rows that fail again are lost."""
        survivors, logits = [], []
        for row, request in enumerate(block.owners):
            try:
                logits.append(block.append([tokens[row]], slice(row, row + 1)))
                survivors.append(request)
            except Exception as own:
                if _out_of_memory(own):
                    raise
                self._fail(request, f"the model failed on this request: {type(own).__name__}")
        if len(survivors) < len(block):
            self._survive(error)
        return survivors, torch.cat(logits) if logits else torch.empty(0)

    def _choose(self, requests: Sequence[Running], logits: Tensor) -> list[Choice | None]:
        """The next token of each request; None if the request has failed."""
        if not requests:
            return []
        try:
            return self._choices(requests, logits)
        except Exception as error:
            if _out_of_memory(error):
                raise
            if len(requests) == 1:
                log.exception("a token can't be chosen")
                self._fail(requests[0], f"the next token can't be chosen: {type(error).__name__}")
                return [None]
            return [self._choose([request], logits[row : row + 1])[0] for row, request in enumerate(requests)]

    def _choices(self, requests: Sequence[Running], logits: Tensor) -> list[Choice | None]:
        tokens = choose(logits, [r.generation.sampling for r in requests], [r.draw() for r in requests])
        scores = _scores(requests, tokens, logits)
        for request, token in zip(requests, tokens, strict=True):
            if token is None:
                self._fail(request, "the model's output is not a number: its weights are broken")
        return [None if token is None else (token, scores.get(row)) for row, token in enumerate(tokens)]

    def _accept(self, requests: Sequence[Running], choices: Sequence[Choice | None]) -> None:
        now = time.monotonic()
        for request, choice in zip(requests, choices, strict=True):
            if choice is None or request.over:
                continue
            try:
                self._deliver(request, *choice, now)
            except Exception as error:
                log.exception("a token can't be turned into text")
                self._fail(request, f"the answer can't be turned into text: {type(error).__name__}")

    def _deliver(self, request: Running, token: int, logprob: TokenLogprob | None, now: float) -> None:
        since = request.last_token_at
        histogram = self._metrics.first_token if since is None else self._metrics.between_tokens
        histogram.observe(now - (request.arrived if since is None else since))
        request.last_token_at = now
        self._metrics.generation_tokens.inc()
        output = request.accept(token, logprob)
        if request.finish_reason:
            self._metrics.finished[request.finish_reason].inc()
            self._metrics.duration.observe(now - request.arrived)
        if output:
            request.deliver(output)

    def _fit(self) -> None:
        """Put the newest requests back into the queue while the rows need more cells than the cache has."""
        active = sorted(self._active(), key=_arrived)
        while len(active) > 1 and self._cells() > self._cache_cells:
            self._evict(active.pop())

    def _relieve(self, error: Exception) -> None:
        """After an out-of-memory error, put the newer half of the requests back and lower the size of the cache."""
        log.warning("out of memory with %d tokens in the cache: %s", self._cells(), error)
        active = sorted(self._active(), key=_arrived)
        if len(active) == 1:
            self._fail(active[0], "the engine has no memory for this request, even alone", status=503)
        else:
            self._cache_cells = min(self._cache_cells, self._cells() - 1)
        for request in active[(len(active) + 1) // 2 :]:
            self._evict(request)
        for block in self._batch.blocks:
            if not block.sound:
                for request in list(block.owners):
                    self._evict(request)
        self._batch.forward.give_back()

    def _evict(self, request: Running) -> None:
        for lane in self._lanes.values():
            for prefill in [p for p in lane.prefills if request in p.owners]:
                lane.prefills.remove(prefill)
                for owner in prefill.owners:
                    self._wait_again(owner)
        for block in [b for b in self._batch.blocks if request in b.owners]:
            block.remove(block.owners.index(request))
            self._wait_again(request)
        self._batch.sweep()

    def _wait_again(self, request: Running) -> None:
        """Put a running request back into the queue. Prompt and answer so far are read again, then it continues."""
        if request.over:
            return
        self._metrics.preemptions.inc()
        with self._wake:
            self._waiting = sorted([*self._waiting, request], key=_arrived)

    def _measure(self) -> None:
        self._metrics.running.set(len(self._active()))
        self._metrics.waiting.set(len(self._waiting))
        self._metrics.cache_usage.set(self._cells() / self._cache_cells)

    def _fail(self, request: Running, message: str, status: int = 500) -> None:
        if request.over:
            return
        request.cancelled = True
        request.deliver(Output(error=message, status=status, tokens=request.tokens))

    def _fail_active(self, message: str) -> None:
        for request in self._active():
            self._fail(request, message)
        self._lanes = {}
        self._batch.clear()
        self._measure()


def _lane(request: Running) -> tuple[str, bool]:
    return request.client, request.size > LONG


def _arrived(request: Running) -> float:
    return request.arrived


def _out_of_memory(error: Exception) -> bool:
    """CUDA's error has its own class, but the CPU allocator raises a RuntimeError.

    No request for a class is reported; the message: https://github.com/pytorch/pytorch/pull/20618
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def _scores(requests: Sequence[Running], tokens: Sequence[int | None], logits: Tensor) -> dict[int, TokenLogprob]:
    """Log-probabilities for the rows that want them, by row."""
    wanted = [(request.generation.logprobs, i, tokens[i]) for i, request in enumerate(requests)]
    by_top = sorted((top, i, token) for top, i, token in wanted if top is not None and token is not None)
    scores: dict[int, TokenLogprob] = {}
    for top, group in groupby(by_top, key=lambda item: item[0]):
        rows = list(group)
        scored = logprobs(logits, [i for _, i, _ in rows], [token for _, _, token in rows], top)
        scores |= dict(zip((i for _, i, _ in rows), scored, strict=True))
    return scores

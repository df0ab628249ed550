"""Ends a worker whose step takes far longer than the steps before it, with the stacks of its threads in the log.

Of a validation each forward pass is watched, and compared with those before: it may have any number of rows.

A stuck file system or a broken GPU raises no error, and the other ranks wait for this one in their next exchange. Each
rank has its own watchdog, and all are in the same step or pass, so the log gets the stacks of all ranks. Ray Train then
starts the workers again, from the last checkpoint.
"""

import faulthandler
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal, NoReturn

from driftloop.contract.names import EXIT_RETRY

log = logging.getLogger(__name__)

_RECENT = 100  # steps or passes
_POLL = 1.0  # seconds
_PAUSE = 10.0  # seconds until the process ends: Ray kills the other ranks then, and they must have logged their stacks
_STDERR = 2  # Ray replaces sys.stderr


Kind = Literal["step", "validation"]
_WORDS: dict[Kind, str] = {"step": "step", "validation": "a forward pass of the validation after step"}


@dataclass(frozen=True, slots=True)
class _Watched:
    kind: Kind
    step: int
    begun: float


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step, or a pass of a validation, may take, in seconds.

    The first one also compiles code, and no other is known to compare with.

    `frozen`: for native code that keeps Python's lock, so that nothing can count the time of its step. An exchange may
    take longer than `first` and `least` (cluster/driver.py), as it would end a rank without stacks.
    """

    first: float = 1200
    least: float = 600
    factor: float = 20
    frozen: float = 1500

    def limit(self, recent: Sequence[float]) -> float:
        """The limit of a step or pass after others of its kind that took `recent` seconds."""
        return max(self.least, self.factor * median(recent)) if recent else self.first


PATIENCE = Patience()


class Watchdog:
    """Watches the steps of a training and its validations, in a thread."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._recent: dict[Kind, deque[float]] = {kind: deque(maxlen=_RECENT) for kind in _WORDS}
        self._present: _Watched | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, step: int, kind: Kind = "step") -> None:
        """A step begins, or the first pass of the validation after it."""
        self._present = _Watched(kind, step, time.monotonic())

    def end(self) -> None:
        """The step or pass has ended. What follows until the next one is not watched."""
        if self._present is not None:
            self._recent[self._present.kind].append(time.monotonic() - self._present.begun)
            self._present = None

    def next(self) -> None:
        """The pass has ended, and another one of its kind begins."""
        if (ended := self._present) is not None:
            self.end()
            self.begin(ended.step, ended.kind)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(_POLL):
            # This thread can't run either without Python's lock. The one of faulthandler can.
            faulthandler.dump_traceback_later(self._patience.frozen, exit=True, file=_STDERR)
            if (present := self._present) is not None:
                limit = self._patience.limit(tuple(self._recent[present.kind]))
                if time.monotonic() - present.begun > limit and self._present is present:
                    _end(f"{_WORDS[present.kind]} {present.step}", limit)
        faulthandler.cancel_dump_traceback_later()


def _end(name: str, limit: float) -> NoReturn:
    log.error("%s has taken longer than %.0f s, so this worker ends. This is what its threads do:", name, limit)
    faulthandler.dump_traceback(_STDERR, all_threads=True)
    time.sleep(_PAUSE)
    os._exit(EXIT_RETRY)

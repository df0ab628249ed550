"""Ends a worker whose step takes far longer than the steps before it, with the stacks of its threads in the log.

A stuck file system or a broken GPU raises no error, and the other ranks wait for this one in their next exchange. Each
rank has its own watchdog, and all are in the same step, so the log gets the stacks of all ranks. Ray Train then starts
the workers again, from the last checkpoint.
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
from typing import NoReturn

from driftloop.contract.names import EXIT_RETRY

log = logging.getLogger(__name__)

_RECENT = 100  # steps
_POLL = 1.0  # seconds
_PAUSE = 10.0  # seconds until the process ends: Ray kills the other ranks then, and they must have logged their stacks
_STDERR = 2  # Ray replaces sys.stderr


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a step may take, in seconds. The first one also compiles code, and no other is known to compare with.

    `frozen`: for native code that keeps Python's lock, so that nothing can count the time of its step. An exchange may
    take longer than `first` and `least` (cluster/driver.py), as it would end a rank without stacks.
    """

    first: float = 1200
    least: float = 600
    factor: float = 20
    frozen: float = 1500

    def limit(self, recent: Sequence[float]) -> float:
        """The limit of a step after steps that took `recent` seconds."""
        return max(self.least, self.factor * median(recent)) if recent else self.first


PATIENCE = Patience()


class Watchdog:
    """Watches the steps of a training, in a thread."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._step: tuple[int, float] | None = None  # the number of the present step, and when it began
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self, step: int) -> None:
        """A step begins."""
        self._step = step, time.monotonic()

    def end(self) -> None:
        """The step has ended. What follows until the next one is not watched."""
        if self._step is not None:
            self._recent.append(time.monotonic() - self._step[1])
            self._step = None

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(_POLL):
            # This thread can't run either without Python's lock. The one of faulthandler can.
            faulthandler.dump_traceback_later(self._patience.frozen, exit=True, file=_STDERR)
            if (step := self._step) is not None:
                number, begun = step
                limit = self._patience.limit(tuple(self._recent))
                if time.monotonic() - begun > limit and self._step is step:
                    _end(number, limit)
        faulthandler.cancel_dump_traceback_later()


def _end(number: int, limit: float) -> NoReturn:
    log.error("step %d has taken longer than %.0f s, so this worker ends. This is what its threads do:", number, limit)
    faulthandler.dump_traceback(_STDERR, all_threads=True)
    time.sleep(_PAUSE)
    os._exit(EXIT_RETRY)

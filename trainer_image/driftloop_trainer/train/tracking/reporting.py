"""Reports steps to trackers and never keeps the training waiting: a bounded queue and a thread for each tracker."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count

from driftloop.contract.names import EXIT_BAD_INPUT
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.tracking.tracker import Ending, Row, Tracker, described

log = logging.getLogger(__name__)

_MOST = 10_000  # rows that wait for a tracker; more are left out
_BATCH = 500  # rows per write
_INTERVAL = 2.0  # seconds between writes, so that fast steps are written together
_PAUSES = (1.0, 2.0, 5.0, 15.0, 60.0)  # seconds after a failure, and after each further one
_CLOSE = 15.0  # seconds that the end of a training may wait for all trackers together


class Reporting:
    """Sends each step to all trackers. Without trackers it does nothing."""

    def __init__(self, trackers: Sequence[Tracker] = ()) -> None:
        self._queues: list[_Queue] = []
        self.begin(trackers)

    def begin(self, trackers: Sequence[Tracker], earlier: Iterable[tuple[int, Mapping[str, float]]] = ()) -> None:
        """Report to `trackers`, too. `earlier`: steps before a restart; trackers know which of them they have."""
        self._queues += [_Queue(tracker) for tracker in trackers]
        for step, values in earlier:
            self(step, values)

    def __call__(self, step: int, values: Mapping[str, float]) -> None:
        """Send a row. Returns at once, whatever the trackers do."""
        row = Row(step, time.time(), dict(values))
        for waiting in self._queues:
            waiting.put(row)

    def close(self, ending: Ending | None) -> None:
        """Let the trackers write what waits. After 15 s a tracker is left behind, and its other rows are lost."""
        deadline = time.monotonic() + _CLOSE
        for waiting in self._queues:
            waiting.end(ending)
        for waiting in self._queues:
            waiting.join(deadline)


@contextmanager
def reporting() -> Iterator[Reporting]:
    """Report inside the block. After a failure that is tried again, the runs of the trackers are left open."""
    sent = Reporting()
    ending: Ending | None = None
    try:
        yield sent
        ending = "FINISHED"
    except StageFailure as failure:
        ending = "FAILED" if failure.exit_code == EXIT_BAD_INPUT else None
        raise
    finally:
        sent.close(ending)


class _Queue:
    """The rows that wait for one tracker, and the thread that writes them."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker
        self._rows: queue.Queue[Row] = queue.Queue(_MOST)
        self._lost = 0
        self._ended = threading.Event()
        self._ending: Ending | None = None
        self._thread = threading.Thread(target=self._run, name=f"tracker {tracker.name}", daemon=True)
        self._thread.start()

    def put(self, row: Row) -> None:
        try:
            self._rows.put_nowait(row)
        except queue.Full:
            self._lost += 1
            if self._lost == 1:
                log.warning("%s: %d steps wait, and further ones are left out", self._tracker.name, _MOST)

    def end(self, ending: Ending | None) -> None:
        self._ending = ending
        self._ended.set()

    def join(self, deadline: float) -> None:
        self._thread.join(max(0.0, deadline - time.monotonic()))
        lost = self._rows.qsize() + self._lost
        if lost or self._thread.is_alive():
            log.warning("%s did not take everything: %d steps are not in it", self._tracker.name, lost)

    def _run(self) -> None:
        if not self._done(self._tracker.open):
            return
        while rows := self._batch():
            if not self._done(partial(self._tracker.write, rows)):
                self._lost += len(rows)
                return
        self._done(lambda: self._tracker.close(self._ending))

    def _batch(self) -> list[Row]:
        """The rows to write next, once there are some; none after the last ones."""
        rows: list[Row] = []
        while not rows:
            last = self._ended.is_set()
            if self._rows.qsize() < _BATCH:
                self._ended.wait(_INTERVAL)
            while len(rows) < _BATCH and not self._rows.empty():  # this thread is the only one that takes any
                rows.append(self._rows.get_nowait())
            if last:
                break
        return rows

    def _done(self, call: Callable[[], None]) -> bool:
        """Call until it succeeds. After the end of the training one more failure is the last: returns False then."""
        for failures in count():
            last = self._ended.is_set()
            try:
                call()
            except Exception as error:  # each client has its own
                if failures == 0:
                    log.warning("%s fails, training goes on: %s", self._tracker.name, described(error))
            else:
                if failures:
                    log.info("%s works again", self._tracker.name)
                return True
            if last:
                return False
            self._ended.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])
        return False

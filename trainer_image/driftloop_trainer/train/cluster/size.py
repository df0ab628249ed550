"""On how many nodes to train, and when on more."""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure

log = logging.getLogger(__name__)

_POLL = 0.5  # seconds
# Seconds that a node must have been there before training stops for it, and until a lost one surely counts as lost:
# Ray notices within 3 s (cluster/node.py).
_SETTLED = 6.0


@dataclass(frozen=True, slots=True)
class Size:
    """The number of nodes of a training: `most`, or fewer but at least `least` if the others don't come.

    `alive`: how many are there now.
    """

    least: int
    most: int
    alive: Callable[[], int]

    def wait(self, wanted: int, patience: float, timeout: float) -> int:
        """Wait for `wanted` nodes, after `patience` seconds for at least `least`. Returns how many there are.

        Raises NodesMissing after `timeout` seconds, or after `patience` if that is longer.
        """
        begun = time.monotonic()
        while (nodes := self.chosen(self.alive(), wanted, time.monotonic() - begun < patience)) is None:
            if time.monotonic() - begun > max(patience, timeout):
                message = (
                    f"{self.alive()} of {self.least} nodes joined within startupTimeoutSeconds: "
                    "lower compute.nodes, free capacity in the cluster, or wait longer"
                )
                raise StageFailure(StageReason.NODES_MISSING, message, EXIT_RETRY)
            time.sleep(_POLL)
        log.info("training on %d of %d nodes", nodes, self.most)
        return nodes

    def chosen(self, alive: int, wanted: int, patient: bool) -> int | None:
        """How many of `alive` nodes to train on, up to `most`; None: wait. Pure."""
        if alive >= wanted or (alive >= self.least and not patient):
            return min(alive, self.most)
        return None

    @contextmanager
    def watching(self, nodes: int, grow: Callable[[], None]) -> Iterator[None]:
        """While the block trains on `nodes`, call `grow` once when there are more for some seconds."""
        ended = threading.Event()

        def watch() -> None:
            since = time.monotonic()
            while not ended.wait(_POLL):
                if self.alive() <= nodes:
                    since = time.monotonic()
                elif time.monotonic() - since > _SETTLED:
                    log.info("there are more than %d nodes: they join training after its next checkpoint", nodes)
                    grow()
                    return

        if nodes < self.most:
            threading.Thread(target=watch, daemon=True).start()
        try:
            yield
        finally:
            ended.set()


def wait_until_noticed() -> None:
    """Wait until a node that was lost just now counts as lost."""
    time.sleep(_SETTLED)

"""Progress as Prometheus metrics, in an actor on the driver's pod.

`ray.train.report` would block every worker at each call until the controller has polled (every 2 s). Instead, one
worker sends the progress to an actor and does not wait for it.
"""

import time
from typing import Any

import ray
from prometheus_client import CollectorRegistry, Gauge, start_http_server
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from driftloop.contract.names import METRICS_PORT, Metric
from driftloop_trainer.train.cluster.processtime import process_start
from driftloop_trainer.train.progress import Progress

_INTERVAL = 0.5  # seconds between messages


class Board:
    """Serves the latest progress on a port. `born`: when the pod started, in Unix seconds."""

    def __init__(self, port: int, total: int, born: float) -> None:
        self._born = born
        self._started = False
        registry = CollectorRegistry()

        self._registry = registry

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._gauges = {
            "step": gauge(Metric.TRAIN_STEP, "Optimiser steps done."),
            "total": gauge(Metric.TRAIN_TOTAL_STEPS, "Optimiser steps in all."),
            "loss": gauge(Metric.TRAIN_LOSS, "Loss of the last step, per token or per pair."),
            "tokens_per_second": gauge(Metric.TRAIN_TOKENS_PER_SECOND, "Tokens per second over all workers."),
            "eta_seconds": gauge(Metric.TRAIN_ETA_SECONDS, "Seconds left at the current speed."),
            "skipped": gauge(Metric.TRAIN_SKIPPED_STEPS, "Steps whose loss or gradient was not finite."),
            "best_step": gauge(Metric.TRAIN_BEST_STEP, "Step of the lowest validation loss."),
            "checkpoint_step": gauge(Metric.TRAIN_CHECKPOINT_STEP, "Step of the last complete checkpoint."),
            "checkpoint_time": gauge(Metric.TRAIN_CHECKPOINT_TIME, "When it was complete, in Unix time."),
        }
        self._gauges["total"].set(total)
        self._peak = gauge(Metric.TRAIN_PEAK_MEMORY, "Most memory of one worker so far.", "kind")
        self._start = gauge(Metric.TRAIN_START_SECONDS, "Seconds from the start of this pod until its first step.")
        self._nodes = gauge(Metric.TRAIN_NODES, "Nodes that train now.")
        self._validation = gauge(Metric.TRAIN_VALIDATION_LOSS, "Loss on the rows that are set aside.", "kind")
        self._reward = gauge(Metric.TRAIN_REWARD, "Reward of better over worse answers in the last step.", "kind")
        self._mfu: Gauge | None = None  # absent where it is not known
        start_http_server(port, registry=registry)

    def show_nodes(self, nodes: int) -> None:
        """Replace the number of nodes that is served."""
        self._nodes.set(nodes)

    def show(self, progress: Progress) -> None:
        """Replace what is served."""
        if not self._started:
            self._started = True
            self._start.set(time.time() - self._born)
        for name, gauge in self._gauges.items():
            gauge.set(getattr(progress, name))
        if progress.mfu is not None:
            if self._mfu is None:
                self._mfu = Gauge(Metric.TRAIN_MFU, "Share of the GPUs' peak in bfloat16.", registry=self._registry)
            self._mfu.set(progress.mfu)
        for kind, size in progress.peak_memory.items():
            self._peak.labels(kind).set(size)
        for kind, value in progress.validation.items():
            self._validation.labels(kind).set(value)
        for kind, value in progress.reward.items():
            self._reward.labels(kind).set(value)


def start_board(total: int) -> Any:
    """Start the board on this node, where the driver is, and return its handle."""
    here = NodeAffinitySchedulingStrategy(node_id=ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(Board).options(num_cpus=0, scheduling_strategy=here)
    return actor.remote(METRICS_PORT, total, process_start())


class Reporter:
    """Sends progress to the board, at most every half second, to cost nothing. The last step and validations always."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._next = 0.0
        self._validation: dict[str, float] = {}

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now >= self._next or progress.step == progress.total or progress.validation != self._validation:
            self._next, self._validation = now + _INTERVAL, progress.validation
            self._board.show.remote(progress)
            # Ray sends the line to the driver, which logs all printed lines.
            print(
                f"step {progress.step}/{progress.total} loss {progress.loss:.4f} "
                + "".join(f"{kind} validation loss {value:.4f} " for kind, value in progress.validation.items())
                + "".join(f"reward {kind} {value:.4f} " for kind, value in progress.reward.items())
                + f"{progress.tokens_per_second:.0f} tokens/s eta {progress.eta_seconds:.0f}s",
                flush=True,
            )

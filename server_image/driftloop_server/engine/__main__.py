"""`python -m driftloop_server.engine`: serve the fetched model on the loopback interface."""

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

# Models come only from the fetched folder. Set before the import of transformers, which reads it once.
os.environ["HF_HUB_OFFLINE"] = "1"

from aiohttp import web

from driftloop.contract.reasons import StageReason
from driftloop.contract.task import ServeTask
from driftloop.podlib import logs
from driftloop.podlib.heavy import loading

with loading():
    from driftloop.podlib.ending import BadInput, StageFailure, TryAgain, exit_on_sigterm, report
    from driftloop_server.descriptors import raise_limit
    from driftloop_server.engine.batch import Batch
    from driftloop_server.engine.budget import cache_cells, cell_bytes, free_bytes, longest_context
    from driftloop_server.engine.metrics import EngineMetrics
    from driftloop_server.engine.model import LoadedModel, load
    from driftloop_server.engine.scheduler import Scheduler
    from driftloop_server.engine.server import EngineServer
    from driftloop_server.stage import serve_task

log = logging.getLogger("driftloop_server.engine")

# Seconds. The proxy closes idle connections after 2 s. If the engine closed one first, it could lose a request that is
# on its way.
KEEPALIVE = 3600.0
# Seconds beyond drain_seconds after which the engine stops even if the proxy still runs.
GRACE = 10.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="driftloop_server.engine", description=__doc__)
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads (default: 1 for small models, else all CPUs)"
    )
    parser.add_argument("--max-waiting", type=int, default=256, help="requests that may wait; further ones get 429")
    return parser.parse_args(argv)


async def serve(task: ServeTask, loaded: LoadedModel, cells: int, max_waiting: int) -> None:
    """Serve until SIGTERM, and then until the proxy has stopped. `cells` is the size of the cache in tokens.

    Raises TryAgain when the model stops working.
    """
    loop = asyncio.get_running_loop()
    terminated, broken = asyncio.Event(), asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, terminated.set)
    metrics = EngineMetrics(task.service)
    scheduler = Scheduler(
        Batch(loaded.model),
        loaded.decode,
        metrics,
        max_num_seqs=task.max_num_seqs,
        max_waiting=max_waiting,
        cache_cells=cells,
        broken=lambda: loop.call_soon_threadsafe(broken.set),
    )
    scheduler.start()
    app = EngineServer(loaded, scheduler, metrics.registry, task.service).app()
    # handler_cancellation: a request whose client has left gives up its place in the batch.
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, keepalive_timeout=KEEPALIVE, shutdown_timeout=1
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", task.engine_port).start()
    log.info("%s: ready on port %d, context %d tokens", task.version, task.engine_port, loaded.max_model_len)
    stop = asyncio.create_task(_until_unneeded(terminated, scheduler, task))
    failed = asyncio.create_task(broken.wait())
    await asyncio.wait([stop, failed], return_when=asyncio.FIRST_COMPLETED)
    await runner.cleanup()
    scheduler.close()
    if broken.is_set():
        raise TryAgain(StageReason.MODEL_FAILED, "the model stopped working: the container must restart")


async def _until_unneeded(terminated: asyncio.Event, scheduler: Scheduler, task: ServeTask) -> None:
    """Wait for SIGTERM, then for the proxy to stop.

    SIGTERM reaches all containers of a pod at once, but the proxy still accepts and finishes requests for a while.
    """
    await terminated.wait()
    deadline = time.monotonic() + task.drain_seconds + GRACE
    log.info("terminating: waiting for the proxy to finish")
    while time.monotonic() < deadline:
        if not scheduler.load and not await _listening(task.metrics_port):
            return
        await asyncio.sleep(0.2)


async def _listening(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


def _loaded(task: ServeTask, threads: int) -> LoadedModel:
    with loading():
        return load(Path(task.model_dir), dtype=task.dtype, max_model_len=task.max_model_len, threads=threads)


def _bounded(loaded: LoadedModel, max_num_seqs: int) -> tuple[LoadedModel, int]:
    """The model with a context that fits into memory, and the size of the cache in tokens. Raises BadInput."""
    free, per_cell = free_bytes(loaded.model.device), cell_bytes(loaded.model)
    cells = cache_cells(free, per_cell, max_num_seqs, loaded.max_model_len)
    context = longest_context(cells, loaded.max_model_len)
    memory = f"{free >> 20} MiB are free after loading the model, and each token needs {per_cell} bytes in the cache"
    log.info("%s: room for %d tokens", memory, cells)
    if not context:
        raise BadInput(StageReason.NO_MEMORY, f"{memory}: give the engine more memory (engine.resources)")
    if context < loaded.max_model_len:
        log.warning("%s: the context is limited to %d tokens, not %d", memory, context, loaded.max_model_len)
    return replace(loaded, max_model_len=context), cells


def main() -> None:
    options = arguments()
    logs.setup()
    raise_limit()
    exit_on_sigterm()  # while the model loads; serving has handlers of its own
    try:
        task = serve_task()
        loaded, cells = _bounded(_loaded(task, options.threads), task.max_num_seqs)
        asyncio.run(serve(task, loaded, cells, options.max_waiting))
    except StageFailure as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()

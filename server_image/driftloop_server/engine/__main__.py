"""`python -m driftloop_server.engine`: serve the fetched model on loopback."""

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

# Before transformers is imported, which reads it once: models come from the fetched folder and from nowhere else.
os.environ["HF_HUB_OFFLINE"] = "1"

from aiohttp import web

from driftloop.contract.reasons import StageReason
from driftloop.contract.task import ServeTask
from driftloop.podlib import logs
from driftloop.podlib.heavy import loading

with loading():
    from driftloop.podlib.ending import BadInput, StageFailure, TryAgain, report
    from driftloop_server.engine.batch import Batch
    from driftloop_server.engine.budget import cache_cells, cell_bytes, free_bytes, longest_context
    from driftloop_server.engine.metrics import EngineMetrics
    from driftloop_server.engine.model import LoadedModel, load
    from driftloop_server.engine.scheduler import Scheduler
    from driftloop_server.engine.server import EngineServer
    from driftloop_server.stage import serve_task

log = logging.getLogger("driftloop_server.engine")

# The proxy closes its idle connections after 2 s; an engine that closed one first could meet a request on its way.
KEEPALIVE = 3600.0
# What the engine stays longer than drain_seconds if the proxy doesn't go.
GRACE = 10.0


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="driftloop_server.engine", description=__doc__)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads (default: 1 for small models, else all)")
    parser.add_argument("--max-waiting", type=int, default=256, help="more waiting requests are answered 429")
    return parser.parse_args(argv)


async def serve(task: ServeTask, loaded: LoadedModel, cells: int, max_waiting: int) -> None:
    """Serve until SIGTERM, and then until the proxy is gone. `cells`: tokens that the cache may have memory for.

    Raises TryAgain when the model breaks.
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
    # handler_cancellation: a request whose client is gone shall not go on taking a place in the batch.
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
        raise TryAgain(StageReason.MODEL_FAILED, "the model does not answer any more: the container must start anew")


async def _until_unneeded(terminated: asyncio.Event, scheduler: Scheduler, task: ServeTask) -> None:
    """SIGTERM reaches all containers of a pod at once, but the proxy still accepts and finishes requests then."""
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
    """The cache's bound in tokens, and the model with a context that fits into it. Raises BadInput."""
    free, per_cell = free_bytes(loaded.model.device), cell_bytes(loaded.model)
    cells = cache_cells(free, per_cell, max_num_seqs, loaded.max_model_len)
    context = longest_context(cells, loaded.max_model_len)
    facts = f"{free >> 20} MiB are free beside the model, and a token takes {per_cell} bytes in the cache"
    log.info("%s: %d tokens of it", facts, cells)
    if not context:
        raise BadInput(StageReason.NO_MEMORY, f"{facts}: give the engine more memory (engine.resources)")
    if context < loaded.max_model_len:
        log.warning("%s: the context is %d tokens, not %d", facts, context, loaded.max_model_len)
    return replace(loaded, max_model_len=context), cells


def main() -> None:
    options = arguments()
    logs.setup()
    try:
        task = serve_task()
        loaded, cells = _bounded(_loaded(task, options.threads), task.max_num_seqs)
        asyncio.run(serve(task, loaded, cells, options.max_waiting))
    except StageFailure as error:
        sys.exit(report(error))


if __name__ == "__main__":
    main()

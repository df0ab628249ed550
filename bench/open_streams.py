"""What one open stream costs the proxy in memory.

    PYTHONPATH=tests python bench/open_streams.py [--streams N ...]

An engine of this process sends one event of each stream and then nothing. The clients are of this process too. For each
number of streams, prints the growth of the proxy's resident memory since it was idle, per stream, and what 10,000 take.
"""

import argparse
import asyncio
import contextlib
import json
import resource
import tempfile
from pathlib import Path

from aiohttp import web
from serving import serve_task

from unit.server.processes import KEYS, Process, answers, start, wait_for

ENOUGH = 10_000
BODY = json.dumps({"messages": [{"role": "user", "content": "where is my card? " * 20}], "stream": True}).encode()
EVENT = b'data: {"id": "1", "choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'


def resident(process: Process) -> int:
    """Bytes of the process's resident memory."""
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    (kilobytes,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return kilobytes * 1024


async def engine(port: int) -> web.AppRunner:
    async def stream(request: web.Request) -> web.StreamResponse:
        if not (await request.json()).get("stream"):
            return web.json_response({"id": "1", "choices": [], "usage": {"completion_tokens": 1}})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_post("/v1/completions", stream)
    app.router.add_post("/v1/chat/completions", stream)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=1024).start()
    return runner


async def opened(port: int) -> asyncio.StreamWriter:
    """A stream whose first event has arrived."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n"
    writer.write(head.encode() + BODY)
    await asyncio.wait_for(reader.readuntil(b'"content":"a"'), 60)
    return writer


async def measure(counts: list[int]) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the proxy inherits it
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        task = serve_task("pvc://models/bench", "sha256:" + "0" * 64, Path(folder))
        runner = await engine(task.engine_port)
        proxy = start("proxy", task, Path(folder) / "proxy.log", **KEYS)
        stack.callback(proxy.stop)
        await asyncio.to_thread(wait_for, lambda: answers(f"http://127.0.0.1:{task.metrics_port}/readyz"))
        idle, writers = resident(proxy), list[asyncio.StreamWriter]()
        print(f"idle: {idle / 2**20:.0f} MiB")
        for count in counts:
            while len(writers) < count:
                writers += await asyncio.gather(*(opened(task.api_port) for _ in range(min(50, count - len(writers)))))
            each = (resident(proxy) - idle) / len(writers)
            total = (idle + ENOUGH * each) / 2**20
            print(f"{len(writers)} streams: {each / 1024:.1f} KiB each, {ENOUGH} take {total:.0f} MiB", flush=True)
        for writer in writers:
            writer.transport.abort()
        await runner.cleanup()


def main() -> None:
    """Print one line per number of streams."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, nargs="+", default=[500, 2000, 5000])
    asyncio.run(measure(parser.parse_args().streams))


if __name__ == "__main__":
    main()

"""The Lease is kept while the main loop is busy, and the process ends when it is lost, whatever hangs.

The operator's side is a process of its own, as it is the process that has to end; the API server is a page of code
that keeps one Lease and can be told to hang.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from driftloop.controller.process.leadership import LEASE_LOST

DEADLINE, RETRY, DURATION = 4.0, 0.3, 5.0  # beside many processes a thread waited for the CPU for 2 s
LEADER = f"""
import asyncio, logging, sys, threading, time
from kubernetes.aio import client
from driftloop.controller.runtime.kube.api import Api
from driftloop.controller.process.leader import Election
from driftloop.controller.process.leadership import Leadership

logging.basicConfig()

async def main(url, then):
    async def connect():
        return Api(client.Configuration(host=url))
    leadership = Leadership(connect, Election("ns", "lease", "me", {DURATION}, {DEADLINE}, {RETRY}))
    leadership.start()
    await leadership.acquired()
    print("leading", flush=True)
    if then == "block":
        time.sleep(600)
    if then == "log":  # whoever reads the log has stopped reading, and a writer waits for it
        logging.getLogger().handlers[0].acquire()
        time.sleep(600)
    if then == "hang":
        try:
            await asyncio.sleep(1)
        finally:
            await asyncio.shield(asyncio.sleep(600))
    if then == "work":
        time.sleep({DURATION * 2})
        print("still", leadership.leads(), flush=True)
    await asyncio.to_thread(leadership.release)

asyncio.run(main(*sys.argv[1:]))
"""


class LeaseServer(ThreadingHTTPServer):
    """One Lease, by optimistic concurrency; `hangs` keeps every request waiting."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lease: Any = None
        self.renewed = 0.0
        self.hangs = threading.Event()
        self.revision = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def store(self, lease: Any) -> Any:
        self.revision += 1
        self.renewed = time.monotonic()
        self.lease = lease | {"metadata": lease["metadata"] | {"resourceVersion": str(self.revision)}}
        return self.lease


class Handler(BaseHTTPRequestHandler):
    """The three verbs that an elector uses."""

    server: LeaseServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(lambda _: self.server.lease)

    def do_POST(self) -> None:
        self._answer(self.server.store)

    def do_PUT(self) -> None:
        def replace(body: Any) -> Any:
            same = body["metadata"]["resourceVersion"] == self.server.lease["metadata"]["resourceVersion"]
            return self.server.store(body) if same else None

        self._answer(replace)

    def _answer(self, act: Any) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.hangs.is_set():
            time.sleep(60)
        found = act(json.loads(body or b"null"))
        code = 200 if found else 404 if self.command == "GET" else 409
        text = json.dumps(found or {"kind": "Status", "reason": "Conflict"}).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[LeaseServer]:
    with LeaseServer() as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()


@pytest.fixture
def start(server: LeaseServer) -> Iterator[Any]:
    running: list[subprocess.Popen[str]] = []

    def begin(then: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LEADER, server.url, then]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "leading\n"
        return process

    yield begin
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("then", ["block", "log", "hang"])
def test_whatever_hangs_the_process_ends_within_a_second_of_the_deadline(
    server: LeaseServer, start: Any, then: str
) -> None:
    process = start(then)
    time.sleep(DEADLINE * 1.5)
    assert process.poll() is None  # a main loop that hangs is no reason: the Lease was renewed
    server.hangs.set()
    assert process.wait(timeout=30) == LEASE_LOST
    assert time.monotonic() < server.renewed + DEADLINE + 1


def test_a_lease_that_another_took_ends_a_blocked_process(server: LeaseServer, start: Any) -> None:
    process = start("block")
    server.store(server.lease | {"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 60}})
    taken = server.renewed
    assert process.wait(timeout=30) == LEASE_LOST
    assert time.monotonic() < taken + RETRY + 1
    assert server.lease["spec"]["holderIdentity"] == "thief"


def test_a_loop_that_is_busy_for_longer_than_the_lease_keeps_it_and_gives_it_up_at_the_end(
    server: LeaseServer, start: Any
) -> None:
    process = start("work")
    out, _ = process.communicate(timeout=60)
    assert (out, process.returncode) == ("still True\n", 0)
    assert server.lease["spec"]["holderIdentity"] == ""
    assert server.revision > DURATION * 2 / DEADLINE

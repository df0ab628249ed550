"""A new leader looks at everything before it decides anything: its watches may lag behind the leader of before."""

import argparse
import asyncio
from typing import Any, cast

import pytest

from driftloop.controller.process.leadership import Leadership
from driftloop.controller.process.operator import Operator
from driftloop.controller.process.options import add_arguments, options
from driftloop.controller.runtime.loop.queue import WorkQueue
from driftloop.controller.runtime.loop.watch import Watcher
from driftloop.controller.vocabulary.plan import Key

NOTHING: Any = None


class Ended(Exception):
    """Ends the leader's work in the test."""


class Steps:
    """Lease and watcher in one, which keep the order in which they are used."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    def start(self) -> None:
        self.taken.append("tries")

    async def acquired(self) -> None:
        await asyncio.sleep(0)
        self.taken.append("leads")

    async def sync_until_done(self) -> None:
        await asyncio.sleep(0)  # a LIST takes its time, in which nothing may be decided
        self.taken.append("lists")

    def enqueue_all(self) -> None:
        self.taken.append("enqueues")

    def changed(self, obj: Any) -> None: ...

    async def resync(self, seconds: float) -> None:
        self.taken.append("works")
        raise Ended


async def test_a_new_leader_lists_before_it_decides_anything() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = options(parser.parse_args(["--trainer-image=trainer:1", "--server-image=server:1"]))
    steps = Steps()
    queue: WorkQueue[Key] = WorkQueue(asyncio.get_running_loop().time)
    with pytest.raises(ExceptionGroup) as caught:
        await Operator(found, {})._lead(NOTHING, cast(Leadership, steps), NOTHING, cast(Watcher, steps), queue)
    assert caught.group_contains(Ended)
    assert steps.taken == ["tries", "leads", "lists", "enqueues", "works"]

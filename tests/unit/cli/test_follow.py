"""How a wait ends: by a final state, the timeout, a signal, a deleted object, or a server that gives no answer."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Sequence
from typing import Any, cast

import pytest

from driftloop.cli import follow as module
from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import Exit
from driftloop.cli.follow import Ending, Subject, ending_of, follow
from driftloop.cli.states import Awaiting, Done, Going, Over, State, Stuck
from driftloop.controller.runtime.kube.api import ApiError

Obj = dict[str, Any]


def thing(state: State, uid: str = "1") -> Obj:
    return {"metadata": {"uid": uid}, "state": state}


class Script:
    """A cluster whose object has these states, one after the other; then nothing changes."""

    def __init__(self, *updates: Obj | ApiError | None) -> None:
        self._updates = updates

    async def updates(self, kind: str, name: str) -> AsyncGenerator[Obj | None]:
        for update in self._updates:
            await asyncio.sleep(0)
            match update:
                case None | dict():
                    yield update
                case error:
                    raise error
        await asyncio.sleep(3600)


def end_of(*updates: Obj | ApiError | None, seconds: float = 5) -> Ending:
    async def look(obj: Obj | None) -> State:
        return cast(State, obj["state"]) if obj else Going("absent")

    subject = Subject("FineTuneJob", "tune", look, "driftloop wait job tune")
    return asyncio.run(follow(cast(Cluster, Script(*updates)), subject, seconds))


@pytest.mark.parametrize(
    ("states", "code"),
    [
        ((Going("a"), Done("b")), Exit.DONE),
        ((Going("a"), Stuck("b"), Over("c")), Exit.FAILED),
        ((Awaiting("a"),), Exit.AWAITING),
        ((Stuck("a"), Done("b")), Exit.DONE),
    ],
)
def test_the_first_final_state_ends_the_wait(states: Sequence[State], code: Exit) -> None:
    assert end_of(None, *map(thing, states)).exit == code


def test_what_stays_stuck_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_of(thing(Stuck("no claim")), thing(Stuck("no claim")), seconds=0.2).exit == Exit.TIMEOUT
    monkeypatch.setattr(module, "STUCK_SECONDS", 0.0)
    ending = end_of(thing(Stuck("no claim")))
    assert (ending.exit, ending.message) == (Exit.FAILED, "nothing goes on until a person acts: no claim")


def test_a_pause_in_being_stuck_starts_the_time_anew() -> None:
    follower = module._Follower(cast(Any, None), cast(Any, None), cast(Any, None))
    assert [follower._is_stuck(state, now) for state, now in ((Stuck("a"), 0), (Stuck("b"), 31))] == [False, True]
    assert [follower._is_stuck(state, now) for state, now in ((Going("a"), 40), (Stuck("a"), 90))] == [False, False]


def test_the_timeout_tells_the_last_state_and_how_to_go_on() -> None:
    ending = end_of(thing(Going("step 3 of 9")), seconds=0.2)
    assert ending.exit == Exit.TIMEOUT
    assert "driftloop wait job tune" in ending.message
    assert "step 3 of 9" in ending.message


@pytest.mark.parametrize("second", [None, thing(Done("of another"), uid="2")])
def test_a_deleted_object_ends_the_wait(second: Obj | None) -> None:
    ending = end_of(thing(Going("a")), second)
    assert (ending.exit, ending.message) == (Exit.FAILED, "FineTuneJob tune was deleted")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_tells_how_to_go_on(number: int, code: int) -> None:
    async def interrupted() -> Ending:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), number)

        async def look(obj: Obj | None) -> State:
            return Going("a")

        return await follow(cast(Cluster, Script(thing(Going("a")))), Subject("FineTuneJob", "tune", look, "again"), 9)

    ending = asyncio.run(interrupted())
    assert ending.exit == code
    assert ending.message.endswith("FineTuneJob tune goes on in the cluster. To wait again: again")


def test_a_refusal_names_what_helps() -> None:
    ending = end_of(ApiError(403, "Forbidden", "cannot get finetunejobs"))
    assert ending.exit == Exit.CLUSTER
    assert ending.message.startswith("cannot get finetunejobs (the account lacks a right: deploy/pipeline has")


def test_only_final_states_end_a_wait() -> None:
    assert [ending_of(state, False, None) for state in (Going("a"), Stuck("a"))] == [None, None]

"""The queue's promises, for any order of calls."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.runtime.loop.queue import Backoff, KeyQueue, WorkQueue

KEYS = st.sampled_from("abc")


def test_a_key_is_queued_once() -> None:
    queue: KeyQueue[str] = KeyQueue()
    queue.add("a")
    queue.add("a")
    assert [queue.pop(0), queue.pop(0)] == ["a", None]


def test_keys_come_in_the_order_they_were_added() -> None:
    queue: KeyQueue[str] = KeyQueue()
    for key in "bac":
        queue.add(key)
    assert [queue.pop(0) for _ in range(3)] == ["b", "a", "c"]


def test_a_key_added_while_it_is_worked_on_comes_again_afterwards() -> None:
    queue: KeyQueue[str] = KeyQueue()
    queue.add("a")
    assert queue.pop(0) == "a"
    queue.add("a")
    assert queue.pop(0) is None
    assert len(queue) == 1
    queue.done("a")
    assert queue.pop(0) == "a"


def test_a_delayed_key_waits_for_its_time() -> None:
    queue: KeyQueue[str] = KeyQueue()
    queue.add_at("a", 10)
    assert queue.pop(9.9) is None
    assert queue.next_due() == 10
    assert queue.pop(10) == "a"
    assert queue.next_due() is None


def test_the_earliest_time_counts_and_an_event_counts_at_once() -> None:
    queue: KeyQueue[str] = KeyQueue()
    queue.add_at("a", 20)
    queue.add_at("a", 10)
    queue.add_at("a", 30)
    assert queue.next_due() == 10
    queue.add("a")
    assert queue.pop(0) == "a"
    queue.done("a")
    assert queue.pop(100) is None  # the times asked for before are over with it


CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), KEYS),
        st.tuples(st.just("add_at"), KEYS, st.integers(0, 50)),
        st.tuples(st.just("pop")),
        st.tuples(st.just("done"), KEYS),
    ),
    max_size=60,
)


@given(CALLS)
def test_nothing_is_lost_and_nothing_worked_on_twice_at_once(calls: list[tuple[object, ...]]) -> None:
    queue: KeyQueue[str] = KeyQueue()
    working: set[str] = set()
    owed: set[str] = set()  # added, and not handed out since
    for now, call in enumerate(calls):
        match call:
            case ("add", str(key)):
                queue.add(key)
                owed.add(key)
            case ("add_at", str(key), int(delay)):
                queue.add_at(key, now + delay)
                owed.add(key)
            case ("pop",):
                if (found := queue.pop(now)) is not None:
                    assert found not in working
                    working.add(found)
                    owed.discard(found)
            case ("done", str(key)) if key in working:
                working.discard(key)
                queue.done(key)
    for key in working:
        queue.done(key)
    rest = set()
    while (found := queue.pop(10_000)) is not None:
        assert found not in rest
        rest.add(found)
    assert rest == owed


@given(st.integers(0, 200), st.floats(0, 1))
def test_backoff_grows_and_never_exceeds_its_cap(failures: int, chance: float) -> None:
    backoff: Backoff[str] = Backoff(base=1, cap=60, rng=lambda: chance)
    for _ in range(failures):
        backoff.next("a")
    delay = backoff.next("a")
    assert min(60, 2.0 ** min(failures, 30)) / 2 <= delay <= 60
    backoff.reset("a")
    assert backoff.next("a") <= 1


async def test_a_waiting_worker_wakes_for_what_is_added_and_for_what_falls_due() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    waiting = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("now")
    assert await asyncio.wait_for(waiting, 5) == "now"
    queue.add("soon", after=0.02)
    assert await asyncio.wait_for(queue.get(), 5) == "soon"


async def test_two_workers_never_get_one_key() -> None:
    queue: WorkQueue[str] = WorkQueue(asyncio.get_running_loop().time)
    first, second = asyncio.create_task(queue.get()), asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    done, pending = await asyncio.wait([first, second], timeout=1, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == len(pending) == 1
    queue.add("a")
    await asyncio.sleep(0.01)
    assert not next(iter(pending)).done()
    queue.done("a")
    assert await asyncio.wait_for(next(iter(pending)), 5) == "a"

"""Follows an object until its state is final, the time is over, or the cluster can't be asked."""

import asyncio
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from time import monotonic
from typing import assert_never

from driftloop.cli.cluster import Cluster
from driftloop.cli.exits import Exit
from driftloop.cli.output import Progress
from driftloop.cli.states import Awaiting, Done, Going, Over, State, Stuck
from driftloop.controller.runtime.kube.api import ApiError
from driftloop.controller.vocabulary.plan import Obj

STUCK_SECONDS = 30.0  # what is missing may be created a moment later, by the same `kubectl apply`
StateOf = Callable[[Obj | None], Awaitable[State]]


@dataclass(frozen=True)
class Ending:
    """How a wait ended."""

    exit: Exit
    message: str
    object: Obj | None = None  # as it was last read


@dataclass
class Subject:
    """The object to follow, and what its state means."""

    kind: str
    name: str
    state_of: StateOf  # what the object's state is; None: it does not exist
    resume: str  # the command that waits again


async def follow(cluster: Cluster, subject: Subject, seconds: float) -> Ending:
    """Wait until the state is final. Every end is an Ending."""
    follower = _Follower(cluster, subject, Progress(f"{subject.kind} {subject.name}"))
    watching = asyncio.ensure_future(follower.ending(seconds))
    stopped = _cancel_on_signals(watching)
    try:
        return await watching
    except asyncio.CancelledError:
        message = f"interrupted; {subject.kind} {subject.name} goes on in the cluster. To wait again: {subject.resume}"
        return Ending(stopped[0] if stopped else Exit.INTERRUPTED, message, follower.last)
    finally:
        follower.progress.end()


@dataclass
class _Follower:
    """One wait."""

    cluster: Cluster
    subject: Subject
    progress: Progress
    last: Obj | None = None  # the object as it was last read
    stuck_since: float | None = None

    async def ending(self, seconds: float) -> Ending:
        """Wait until the state is final, the time is over, or the server gives no answer."""
        try:
            async with asyncio.timeout(seconds):
                return await self._until_final()
        except TimeoutError:
            message = f"the state is not final after {seconds:.0f} s. To wait again: {self.subject.resume}"
            return Ending(Exit.TIMEOUT, f"{message}. Last state: {self.progress.last or 'unknown'}", self.last)
        except ApiError as error:
            return Ending(Exit.CLUSTER, refusal(error), self.last)

    async def _until_final(self) -> Ending:
        async with aclosing(_same_object(self.cluster, self.subject)) as updates:
            async for obj, deleted in updates:
                if deleted:
                    return Ending(Exit.FAILED, f"{self.subject.kind} {self.subject.name} was deleted", self.last)
                self.last = obj
                state = await self.subject.state_of(obj)
                self.progress.show(state)
                if ending := ending_of(state, self._is_stuck(state, monotonic()), obj):
                    return ending
        raise AssertionError("updates never end")

    def _is_stuck(self, state: State, now: float) -> bool:
        """Whether the object has been stuck for long enough, without a pause."""
        self.stuck_since = _since(state, self.stuck_since, now)
        return self.stuck_since is not None and now - self.stuck_since >= STUCK_SECONDS


async def _same_object(cluster: Cluster, subject: Subject) -> AsyncGenerator[tuple[Obj | None, bool]]:
    """Each update, and whether the object that was seen first has been deleted."""
    uid: str | None = None
    async with aclosing(cluster.updates(subject.kind, subject.name)) as updates:
        async for obj in updates:
            current = obj["metadata"]["uid"] if obj else None
            yield obj, uid is not None and current != uid
            uid = uid or current


def _since(state: State, since: float | None, now: float) -> float | None:
    """Since when the object has been stuck without a pause; None if it is not."""
    match state:
        case Stuck():
            return now if since is None else since
        case Going() | Done() | Over() | Awaiting():
            return None
        case never:
            assert_never(never)


def ending_of(state: State, is_stuck: bool, obj: Obj | None) -> Ending | None:
    """The ending that a state means; None to wait on. `is_stuck`: it has been stuck for long enough."""
    match state:
        case Done(message):
            return Ending(Exit.DONE, message, obj)
        case Over(message):
            return Ending(Exit.FAILED, message, obj)
        case Awaiting(message):
            return Ending(Exit.AWAITING, message, obj)
        case Stuck(message) if is_stuck:
            return Ending(Exit.FAILED, f"nothing goes on until a person acts: {message}", obj)
        case Going() | Stuck():
            return None
        case never:
            assert_never(never)


def refusal(error: ApiError) -> str:
    """What the API server answered, and what helps."""
    return f"{error.message or error.reason}{_advice(error.code)}"


def _advice(code: int) -> str:
    match code:
        case 0:
            return " (check the server in the kubeconfig, and the network)"
        case 401:
            return " (the token or certificate is not valid: renew the kubeconfig)"
        case 403:
            return " (the account lacks a right: deploy/pipeline has the rights of the commands)"
        case 404:
            return " (are Driftloop's CRDs installed?)"
        case 409:
            return " (another field manager owns a field: remove it there, or here)"
        case _:
            return ""


def _cancel_on_signals(task: "asyncio.Future[Ending]") -> list[Exit]:
    """Cancel the wait at SIGINT and SIGTERM. The list gets the exit code of the signal."""
    stopped: list[Exit] = []

    def stop(code: Exit) -> None:
        stopped.append(code)
        task.cancel()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop, Exit.INTERRUPTED)
    loop.add_signal_handler(signal.SIGTERM, stop, Exit.TERMINATED)
    return stopped

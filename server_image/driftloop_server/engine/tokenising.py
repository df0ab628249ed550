"""Turns request bodies into tokens in threads, so that long prompts block neither the event loop nor short prompts."""

import asyncio
import heapq
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, TypeVar

from driftloop_server.openai_api import ApiError

# Maximal size of a body, in bytes, per thread. A running job can't be stopped, so each size class has its own thread.
LANES = (1 << 14, 1 << 18, 1 << 62)
SYNTAX = 1 << 20  # characters allowed in a body beside its text: names of fields, braces, hints
MAX_JOBS, MAX_BYTES = 256, 64 << 20  # limits of the waiting jobs in all lanes

Result = TypeVar("Result")


class Crowded(Exception):
    """So much work is waiting that more would only time out."""


class Abandoned(Exception):
    """The client that waited for the result has left."""


@dataclass(order=True)
class _Job:
    size: int
    number: int
    work: Callable[[Callable[[], bool]], Any] = field(compare=False)
    done: Callable[[Any, BaseException | None], object] = field(compare=False)
    wanted: bool = field(compare=False, default=True)

    def run(self) -> None:
        try:
            result = self.work(lambda: self.wanted) if self.wanted else None
        except BaseException as error:  # pass every error on to the caller that waits
            self.done(None, error)
            return
        self.done(result, None)


class Tokenising:
    """Threads that process bodies, one lane per size class. Within a lane the smallest body is first."""

    def __init__(self) -> None:
        self._lanes = [_Lane(f"tokenise-{number}") for number in range(len(LANES))]
        self._numbers = count()
        self._jobs = self._bytes = 0

    async def run(self, size: int, work: Callable[[int, Callable[[], bool]], Result]) -> Result:
        """Run `work(lane, wanted)` for a body of `size` bytes. Raises Crowded.

        When the caller is cancelled, waiting work is dropped, and in running work `wanted()` becomes False.
        """
        if self._jobs >= MAX_JOBS or self._bytes + size > MAX_BYTES:
            raise Crowded
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        lane = next(number for number, limit in enumerate(LANES) if size <= limit)

        def done(result: Any, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(_settle, future, result, error)

        job = _Job(size, next(self._numbers), lambda wanted: work(lane, wanted), done)
        self._jobs, self._bytes = self._jobs + 1, self._bytes + size
        self._lanes[lane].add(job)
        try:
            return await future
        finally:
            job.wanted = False
            self._lanes[lane].drop(job)
            self._jobs, self._bytes = self._jobs - 1, self._bytes - size


class _Lane:
    """A thread that runs the smallest job first."""

    def __init__(self, name: str) -> None:
        self._jobs: list[_Job] = []
        self._wake = threading.Condition()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def add(self, job: _Job) -> None:
        with self._wake:
            heapq.heappush(self._jobs, job)
            self._wake.notify()

    def drop(self, job: _Job) -> None:
        """Forget a job that has ended or whose client has left, and free its body."""
        with self._wake:
            if job in self._jobs:
                self._jobs.remove(job)
                heapq.heapify(self._jobs)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._jobs)
                job = heapq.heappop(self._jobs)
            job.run()
            del job  # otherwise its body would stay in memory until the next job


def _settle(future: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


def refuse_oversized(body: bytes, field: str, context: int, longest_token: int) -> None:
    """Raise ApiError 400 for a body so long that its text can't fit into the context, without parsing it.

    JSON writes a character as 12 characters at most, of which every sixth is a backslash. Beside the text in `field` a
    body may have `SYNTAX` characters.
    """
    room = context * longest_token
    if len(body) <= room + SYNTAX or b"\0" in body[:4]:  # UTF-16 and UTF-32 are always parsed
        return
    least = len(body.decode(errors="replace")) - 6 * body.count(b"\\") - SYNTAX
    if least > room:
        raise _too_long(field, f"{least} characters or more", f"{room} characters", context)


def refuse_hopeless(body: dict[str, Any], context: int, longest_token: int) -> None:
    """Raise ApiError 400 for a text with too many characters for `context` tokens, without tokenising it.

    A token has at most `longest_token` characters, and a message has at least one token. Malformed fields pass here;
    the validation of the fields refuses them later.
    """
    room = context * longest_token
    prompt, messages = body.get("prompt"), body.get("messages")
    for text in prompt if isinstance(prompt, list) else [prompt]:
        if isinstance(text, str) and len(text) > room:
            raise _too_long("prompt", f"{len(text)} characters", f"{room} characters", context)
    if isinstance(prompt, list) and len(prompt) > context:
        raise _too_long("prompt", f"{len(prompt)} items", f"{context} tokens", context)
    if not isinstance(messages, list):
        return
    if len(messages) > context:
        raise _too_long("messages", f"{len(messages)} messages", f"{context} tokens", context)
    characters = sum(_characters(message) for message in messages)
    if characters > room:
        raise _too_long("messages", f"{characters} characters", f"{room} characters", context)


def _characters(message: Any) -> int:
    if not isinstance(message, dict):
        return 0
    texts = [message.get("content"), *_field(message.get("content"), "text")]
    texts += _field(_field(message.get("tool_calls"), "function"), "arguments")
    return sum(len(text) for text in texts if isinstance(text, str))


def _field(objects: Any, name: str) -> list[Any]:
    """The values of a field in a list of objects; anything else is left out."""
    return [item.get(name) for item in objects if isinstance(item, dict)] if isinstance(objects, list) else []


def _too_long(field: str, size: str, limit: str, context: int) -> ApiError:
    return ApiError(
        400,
        f"{field}: has {size}, but this model's context of {context} tokens holds at most {limit}: shorten the text",
        param=field,
        code="context_length_exceeded",
    )

"""Feeds the lines of logs to the detector, and counts what can't be used."""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import assert_never

from driftloop.cli.detecting.formats import KNOWN, parse
from driftloop.cli.detecting.lines import Numbered
from driftloop.cli.detecting.requests import Other, Request, Requests, Unreadable
from driftloop.cli.detecting.stream import Stream
from driftloop.cli.manifests import BadInput

HOPELESS = 1_000  # lines of which none can be read, after which the source is refused
NAMED = 10  # unreadable lines that the result names
IDENTITIES = 10_000  # last requests among which a repetition is recognised
AHEAD = timedelta(minutes=5)  # of a clock that another machine wrote; later times would end every window


@dataclass(frozen=True)
class Fault:
    """A line that can't be used."""

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source} line {self.line}: {self.reason}"


@dataclass
class Counts:
    """What was read."""

    requests: int = 0  # that the detector was given
    others: int = 0  # lines that are not requests
    repeated: int = 0  # requests that were there before, with the same identity
    earlier: int = 0  # requests from before the state was written
    unreadable: int = 0  # lines
    faults: list[Fault] = field(default_factory=list)  # the first of them


@dataclass
class Reader:
    """Reads lines into a stream."""

    stream: Stream
    since: datetime | None = None  # earlier requests are in the state
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    counts: Counts = field(default_factory=Counts)
    _identities: OrderedDict[str, None] = field(default_factory=OrderedDict)

    def read(self, lines: Iterable[Numbered], ended: Callable[[], bool]) -> None:
        """Read the lines. After each window `ended` says whether to stop. Raises BadInput if none can be read."""
        for line in lines:
            found = parse(line.content, self.now()) if isinstance(line.content, str) else line.content
            match found:
                case Requests(requests):
                    windows = [self._took(request, line) for request in requests]
                    if any(windows) and ended():
                        return
                case Other():
                    self.counts.others += 1
                case Unreadable(reason):
                    self._fault(line, reason)
                case never:
                    assert_never(never)

    def refuse_unknown_formats(self) -> None:
        """Raise BadInput if lines were read, but no request."""
        counts = self.counts
        if not (counts.requests or counts.earlier or counts.repeated) and (counts.faults or counts.others):
            first = f" ({counts.faults[0]})" if counts.faults else ""
            raise BadInput(
                f"no request found: {counts.unreadable} lines can't be read{first}, {counts.others} are not requests. "
                f"Known formats: {KNOWN}"
            )

    def _took(self, request: Request, line: Numbered) -> bool:
        """Give the stream a request. Returns whether a window has ended."""
        if request.at is None:
            self._fault(line, "the request has no time")
            return False
        if request.at > self.now() + AHEAD:
            self._fault(line, "the time is in the future")
            return False
        if self.since is not None and request.at < self.since:
            self.counts.earlier += 1
            self.stream.remember(request.at, request.text, request.user, line.name)
            return False
        if self._is_repeated(request.identity):
            self.counts.repeated += 1
            return False
        self.counts.requests += 1
        return self.stream.take(request.at, request.text, request.user, line.name)

    def _is_repeated(self, identity: str | None) -> bool:
        if identity is None:
            return False
        known = identity in self._identities
        self._identities[identity] = None
        self._identities.move_to_end(identity)
        if len(self._identities) > IDENTITIES:
            self._identities.popitem(last=False)
        return known

    def _fault(self, line: Numbered, reason: str) -> None:
        self.counts.unreadable += 1
        if len(self.counts.faults) < NAMED:
            self.counts.faults.append(Fault(line.source, line.number, reason))
        if self.counts.unreadable >= HOPELESS and not self.counts.others:
            self.refuse_unknown_formats()

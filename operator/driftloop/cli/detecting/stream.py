"""The detector on a stream of requests. Pure: every time is that of a request.

The first requests make the reference profile, unless it is given. After that, requests are counted into windows as the
proxy counts them, and each window is a check of the operator's detector (`controller/drift/watch.py`).
"""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.contract.shares import Shares
from driftloop.contract.textstats import MAX_CHARACTERS, build_profile, parse_profile
from driftloop.contract.topics import Sample, Topic, asked, topics
from driftloop.controller.drift.change import sentence
from driftloop.controller.drift.detector import Counters
from driftloop.controller.drift.memory import design_effect, remembered
from driftloop.controller.drift.watch import watch
from driftloop.controller.vocabulary.conditions import parse_timestamp

SUBJECT = "stream"  # stands for the version in the detector's status
WINDOW = timedelta(minutes=1)
IDLE = timedelta(hours=1)  # the longest window without requests: blocks are hours
SILENCE = timedelta(days=7)  # after it, hours without requests are not counted one by one
SHARED = 2  # texts of the reference that must have a word or pair, so that the profile has none of a single text
MAX_ALARMS = 100  # that are kept for the result


@dataclass(frozen=True)
class Alarm:
    """An alarm of this run."""

    raised: datetime
    message: str
    ended: datetime | None = None
    topics: tuple[Topic, ...] | None = None  # that grew; None: too few requests are known from before, or since


@dataclass
class Stream:
    """What is known of the stream so far."""

    spec: Drift
    reference_requests: int
    profile: dict[str, Any] | None = None  # the document of `build_profile`; None: not known yet
    status: DriftStatus = field(default_factory=DriftStatus)
    shares: Shares = field(default_factory=Shares)
    alarms: list[Alarm] = field(default_factory=list)
    left_out: int = 0  # requests beyond the share of their text or user
    sample: Sample = field(default_factory=Sample)  # of this run's requests, from which topics are found
    _earlier: Shares = field(default_factory=Shares)
    _texts: list[str] = field(default_factory=list)
    _window: dict[str, list[float]] = field(default_factory=dict)
    _last: datetime | None = None

    def __post_init__(self) -> None:
        self._profile = parse_profile(self.profile) if self.profile is not None else None
        self._clear()

    @property
    def collected(self) -> int:
        """Requests of the reference so far."""
        return len(self._texts)

    @property
    def alarm(self) -> bool:
        """Whether there is an alarm now."""
        return self.status.alarm

    def take(self, at: datetime, text: str, user: str | None, name: str = "") -> bool:
        """Count a request. `name` says where it is. Returns whether a window has ended."""
        if not self.shares.admits(text, user):
            self.left_out += 1
            return False
        self.sample.add(asked(at, text, user, name))
        if self._profile is None:
            self._collect(at, text)
            return False
        ended = self._advance(at)
        for signal, index in self._profile.bins(text).items():
            self._window[signal][index] += 1
        self._last = max(at, self._last or at)
        return ended

    def remember(self, at: datetime, text: str, user: str | None, name: str) -> None:
        """A request that an earlier run has counted: topics are compared with it."""
        if self._earlier.admits(text, user):
            self.sample.add(asked(at, text, user, name))

    def end(self) -> None:
        """End the window with its last request. What comes in the same second is not read any more."""
        if self._profile is not None and self._last is not None:
            self._check(max(_second(self._last) + timedelta(seconds=1), self._begin + timedelta(seconds=1)))
        if self.status.alarm and self.alarms:
            self._explain()

    @property
    def _begin(self) -> datetime:
        return parse_timestamp(self.status.consumed_until or "")

    def _collect(self, at: datetime, text: str) -> None:
        self._texts.append(text[:MAX_CHARACTERS])
        self._last = max(at, self._last or at)
        if len(self._texts) < self.reference_requests:
            return
        self.profile = build_profile(self._texts, shared=SHARED)
        self._profile = parse_profile(self.profile)
        self._clear()
        self._start(_second(self._last) + timedelta(seconds=1))
        self._texts, self._last = [], None

    def _advance(self, at: datetime) -> bool:
        """Check all windows that end before `at`. A request from before the window counts in it."""
        if self.status.version is None:
            self._start(_minute(at))
        ended = False
        while at >= (until := _minute(self._begin) + WINDOW):
            self._check(until if self._last is not None else max(until, self._idle_until(at)))
            ended = True
        return ended

    def _idle_until(self, at: datetime) -> datetime:
        """The end of a window without requests."""
        if at - self._begin > SILENCE:
            return _minute(at)
        return min(_minute(at), self._begin.replace(minute=0, second=0) + IDLE)

    def _start(self, at: datetime) -> None:
        self.status = watch(self.status, SUBJECT, None, self.spec, at)

    def _clear(self) -> None:
        masses = self._profile.masses() if self._profile else {}
        self._window = {signal: [0.0] * len(shares) for signal, shares in masses.items()}

    def _check(self, until: datetime) -> None:
        assert self._profile is not None
        before = self.status
        counters = Counters(until, self._window, self._profile.masses(), self._profile.rows)
        self.status = watch(before, SUBJECT, counters, self.spec, until)
        self._last = None
        self._clear()
        self.alarms = noted(self.alarms, before, self.status, until)
        if self.status.alarm and not before.alarm:
            self._explain()

    def _explain(self) -> None:
        """Find the topics of the latest alarm, with all requests since the change."""
        sides = self.sample.split(parse_timestamp(self.status.change_point or ""))
        grown = topics(*sides, together=design_effect(remembered(self.status)))
        self.alarms = [*self.alarms[:-1], replace(self.alarms[-1], topics=grown)]


def noted(alarms: list[Alarm], before: DriftStatus, after: DriftStatus, until: datetime) -> list[Alarm]:
    """The alarms after a check: a new one, or the last one with its latest figures or its end."""
    if after.alarm:
        goes_on = before.alarm and alarms
        alarm = replace(alarms[-1], message=sentence(after)) if goes_on else Alarm(until, sentence(after))
        return [*(alarms[:-1] if goes_on else alarms), alarm][-MAX_ALARMS:]
    if before.alarm and alarms:
        return [*alarms[:-1], replace(alarms[-1], ended=until)]
    return alarms


def _second(at: datetime) -> datetime:
    return at.replace(microsecond=0)


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)

"""The result of `driftloop detect`. Pure."""

from dataclasses import dataclass
from typing import Any, assert_never

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.cli.detecting.reading import Counts
from driftloop.cli.detecting.stream import Alarm
from driftloop.cli.exits import Exit
from driftloop.contract.topics import FEWEST
from driftloop.controller.drift.change import more, sentence
from driftloop.controller.drift.memory import known, remembered, rows
from driftloop.controller.drift.watch import missing
from driftloop.controller.vocabulary.conditions import timestamp


@dataclass(frozen=True)
class Drifted:
    """There is an alarm, or there was one in this run."""

    message: str


@dataclass(frozen=True)
class Normal:
    """Requests were compared, and nothing has changed."""

    message: str


@dataclass(frozen=True)
class Unknown:
    """Nothing was compared."""

    message: str


Verdict = Drifted | Normal | Unknown


@dataclass(frozen=True)
class Report:
    """What a run has found."""

    verdict: Verdict
    status: DriftStatus
    alarms: tuple[Alarm, ...] = ()
    counts: Counts | None = None  # None: counters, not lines
    left_out: int = 0

    @property
    def exit(self) -> Exit:
        match self.verdict:
            case Drifted():
                return Exit.DRIFTED
            case Normal():
                return Exit.DONE
            case Unknown():
                return Exit.FAILED
            case never:
                assert_never(never)

    def text(self) -> str:
        """The result for people."""
        lines = [f"not readable: {fault}" for fault in self.counts.faults] if self.counts else []
        if self.counts and self.counts.unreadable > len(self.counts.faults):
            lines.append(f"not readable: {self.counts.unreadable - len(self.counts.faults)} more lines")
        for alarm in self.alarms[:-1]:
            lines += [_told(alarm), *self._about(alarm)]
        return "\n".join([*lines, self.verdict.message, *(self._about(self.alarms[-1]) if self.alarms else ())])

    def _about(self, alarm: Alarm) -> list[str]:
        """What the requests of an alarm are about. Counters tell nothing about it."""
        if self.counts is None:
            return []
        if alarm.topics is None:
            return [f"  what they are about is unknown: this run has fewer than {FEWEST} requests before or after it"]
        if not alarm.topics:
            return ["  no word is in many more requests than before"]
        return [f"  {more(topic)}: {', '.join(topic.examples)}" for topic in alarm.topics]

    def document(self) -> dict[str, Any]:
        """The result for programs."""
        document: dict[str, Any] = {
            "verdict": type(self.verdict).__name__,
            "message": self.verdict.message,
            "alarms": [
                {
                    "raised": timestamp(alarm.raised),
                    "ended": timestamp(alarm.ended) if alarm.ended else None,
                    "message": alarm.message,
                    "topics": [vars(topic) for topic in alarm.topics] if alarm.topics is not None else None,
                }
                for alarm in self.alarms
            ],
            "changePoint": self.status.change_point if self.status.alarm else None,
            "shift": {signal: float(value) for signal, value in self.status.shift.items()},
            "logEvidence": self.status.log_evidence,
            "threshold": self.status.threshold,
            "requestsCompared": self.status.requests,
            "consumedUntil": self.status.consumed_until,
        }
        if self.counts:
            document["requests"] = {
                "read": self.counts.requests,
                "leftOut": self.left_out,
                "repeated": self.counts.repeated,
                "readEarlier": self.counts.earlier,
            }
            document["lines"] = {
                "others": self.counts.others,
                "unreadable": self.counts.unreadable,
                "first": [vars(fault) for fault in self.counts.faults],
            }
        return document


def verdict(status: DriftStatus, alarms: tuple[Alarm, ...], spec: Drift, compared: int) -> Verdict:
    """The verdict about a stream, of which this run has compared so many requests."""
    if alarms:
        return Drifted(_told(alarms[-1]))
    if status.alarm:  # of an earlier run, and nothing new
        return Drifted(sentence(status))
    lacks = missing(status, spec)
    if lacks:
        return Unknown(lacks)
    normal = rows(known(remembered(status)))
    if not compared:
        return Unknown(f"nothing to compare: no new request since {status.consumed_until}")
    return Normal(f"no drift: {compared} requests compared with {normal} that are normal")


def _told(alarm: Alarm) -> str:
    return f"{alarm.message}; ended {timestamp(alarm.ended)}" if alarm.ended else alarm.message

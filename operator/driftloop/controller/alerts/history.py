"""Alerts that fired and ended while nobody listened: from Prometheus' history, less what was silenced. Pure."""

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from driftloop.controller.alerts.alerts import GAP, Alert, fingerprint
from driftloop.controller.runtime.readings.prometheus import Series

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Silence:
    """A silence of Alertmanager's, over or not."""

    matchers: tuple[Mapping[str, Any], ...]
    starts: float  # seconds since the epoch
    ends: float

    def covers(self, labels: Mapping[str, str], at: float) -> bool:
        """Whether an alert with `labels` was silenced at that time."""
        return self.starts <= at <= self.ends and all(_matches(matcher, labels) for matcher in self.matchers)


def selector(names: Iterable[str], seconds: float) -> str:
    """The PromQL of the last `seconds` of these alerts."""
    return f'ALERTS{{alertstate="firing",alertname=~"{names_regex(names)}"}}[{max(1, round(seconds))}s]'


def names_regex(names: Iterable[str]) -> str:
    """A regular expression of exactly these alert names, quoted for a label matcher's string."""
    pattern = "|".join(re.escape(name) for name in sorted(names))
    return pattern.replace("\\", "\\\\").replace('"', '\\"')


def silences(answer: Any) -> list[Silence]:
    """The silences of /api/v2/silences. Raises ValueError when they aren't any."""
    if not isinstance(answer, list):
        raise ValueError("silences are no list")
    try:
        return [
            Silence(tuple(each["matchers"]), _seconds(each["startsAt"]), _seconds(each["endsAt"])) for each in answer
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a silence: {error}") from error


def fired(series: Iterable[Series], silenced: Iterable[Silence]) -> list[Alert]:
    """The alerts in `series` that fired at some moment without being silenced."""
    silenced = list(silenced)
    found = []
    for each in series:
        labels = {name: value for name, value in each.labels.items() if name not in ("__name__", "alertstate")}
        for times in _episodes([at for at, _ in each.points]):
            if any(not any(silence.covers(labels, at) for silence in silenced) for at in times):
                found.append(Alert(fingerprint(labels), labels, _moment(times[0]), _moment(times[-1])))
    return found


def _episodes(times: list[float]) -> Iterator[list[float]]:
    """Runs of samples without a gap."""
    run: list[float] = []
    for at in times:
        if run and at - run[-1] > GAP.total_seconds():
            yield run
            run = []
        run.append(at)
    if run:
        yield run


def _matches(matcher: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, wanted = labels.get(str(matcher.get("name")), ""), str(matcher.get("value", ""))
    if matcher.get("isRegex"):
        try:
            found = re.fullmatch(wanted, value) is not None
        except re.error:  # RE2 knows it and Python doesn't: rather respect one silence too many
            log.warning("can't read a silence's regular expression: %s", wanted[:200])
            return True
    else:
        found = value == wanted
    return found if matcher.get("isEqual", True) else not found


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

"""Alerts that fired and ended while no replica was running, from Prometheus' history without silenced ones. Pure."""

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
    """A silence of Alertmanager, active or expired."""

    matchers: tuple[Mapping[str, Any], ...]
    starts: float  # seconds since the epoch
    ends: float

    def covers(self, labels: Mapping[str, str], at: float) -> bool:
        """Whether the silence covers an alert with `labels` at that time."""
        return self.starts <= at <= self.ends and all(_matches(matcher, labels) for matcher in self.matchers)


def selector(names: Iterable[str], seconds: float) -> str:
    """The PromQL that selects the last `seconds` of these alerts."""
    return f'ALERTS{{alertstate="firing",alertname=~"{names_regex(names)}"}}[{max(1, round(seconds))}s]'


def names_regex(names: Iterable[str]) -> str:
    """A regular expression that matches exactly these alert names, quoted for a label matcher."""
    pattern = "|".join(re.escape(name) for name in sorted(names))
    return pattern.replace("\\", "\\\\").replace('"', '\\"')


def silences(answer: Any) -> list[Silence]:
    """Parse an answer of /api/v2/silences. Raises ValueError."""
    if not isinstance(answer, list):
        raise ValueError("the silences are not a list")
    try:
        return [_silence(raw) for raw in answer]
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a silence: {error}") from error


def _silence(raw: Mapping[str, Any]) -> Silence:
    matchers = tuple(dict(matcher) for matcher in raw["matchers"])
    return Silence(matchers, _seconds(raw["startsAt"]), _seconds(raw["endsAt"]))


def fired(series: Iterable[Series], silenced: Iterable[Silence]) -> list[Alert]:
    """The alerts in `series` that fired at some time without being silenced."""
    silenced = list(silenced)
    alerts = []
    for one in series:
        labels = {name: value for name, value in one.labels.items() if name not in ("__name__", "alertstate")}
        for times in _episodes([at for at, _ in one.points]):
            if any(not any(silence.covers(labels, at) for silence in silenced) for at in times):
                alerts.append(Alert(fingerprint(labels), labels, _moment(times[0]), _moment(times[-1])))
    return alerts


def _episodes(times: list[float]) -> Iterator[list[float]]:
    """Split sample times at the gaps between them."""
    episode: list[float] = []
    for at in times:
        if episode and at - episode[-1] > GAP.total_seconds():
            yield episode
            episode = []
        episode.append(at)
    if episode:
        yield episode


def _matches(matcher: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, pattern = labels.get(str(matcher.get("name")), ""), str(matcher.get("value", ""))
    if matcher.get("isRegex"):
        try:
            matches = re.fullmatch(pattern, value) is not None
        except re.error:  # Alertmanager uses RE2, whose syntax differs. Ignoring a silence would be worse.
            log.warning("can't parse the regular expression of a silence, which counts as a match: %s", pattern[:200])
            return True
    else:
        matches = value == pattern
    return matches if matcher.get("isEqual", True) else not matches


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

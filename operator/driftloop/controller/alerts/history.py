"""Alerts that fired and ended while no replica was running, from Prometheus' history without silenced ones. Pure."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from driftloop.controller.alerts.alerts import GAP, Alert, fingerprint
from driftloop.controller.runtime.readings.prometheus import Series


@dataclass(frozen=True)
class Silence:
    """A silence of Alertmanager, active or expired."""

    matchers: tuple[Mapping[str, Any], ...]
    starts: float  # seconds since the epoch
    ends: float

    def holds(self, at: float) -> bool:
        """Whether it silences at that time."""
        return self.starts <= at <= self.ends


Silenced = tuple[Silence, Sequence[Series]]  # a silence, and the alerts that its matchers select


def selector(names: Iterable[str], seconds: float, silence: Silence | None = None) -> str:
    """The PromQL that selects the last `seconds` of these alerts; with `silence` only those that its matchers select.

    Prometheus matches regular expressions as Alertmanager does, in linear time. Those of Python may take hours, and no
    other thread runs meanwhile: not even the one that ends the process without the Lease.
    """
    own = [f'alertstate="firing",alertname=~"{names_regex(names)}"']
    matchers = [_promql(matcher) for matcher in silence.matchers] if silence else []
    return f"ALERTS{{{','.join(own + matchers)}}}[{max(1, round(seconds))}s]"


def names_regex(names: Iterable[str]) -> str:
    """A regular expression that matches exactly these alert names, quoted for a label matcher."""
    return _escaped("|".join(re.escape(name) for name in sorted(names)))


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


def relevant(series: Sequence[Series], silenced: Iterable[Silence]) -> list[Silence]:
    """The silences that hold at some time of the series."""
    times = [at for one in series for at, _ in one.points]
    return [silence for silence in silenced if times and silence.starts <= max(times) and silence.ends >= min(times)]


def fired(series: Iterable[Series], silenced: Sequence[Silenced]) -> list[Alert]:
    """The alerts in `series` that fired at some time without being silenced."""
    covered = [(silence, [_labels(other) for other in selected]) for silence, selected in silenced]
    alerts = []
    for one in series:
        labels = _labels(one)
        own = [silence for silence, all_labels in covered if labels in all_labels]
        for times in _episodes([at for at, _ in one.points]):
            if any(not any(silence.holds(at) for silence in own) for at in times):
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


def _labels(series: Series) -> dict[str, str]:
    return {name: value for name, value in series.labels.items() if name not in ("__name__", "alertstate")}


def _promql(matcher: Mapping[str, Any]) -> str:
    name, equal = str(matcher.get("name")), matcher.get("isEqual", True)
    operator = ("=~" if equal else "!~") if matcher.get("isRegex") else ("=" if equal else "!=")
    if not re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name):
        name = f'"{_escaped(name)}"'
    return f'{name}{operator}"{_escaped(str(matcher.get("value", "")))}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)

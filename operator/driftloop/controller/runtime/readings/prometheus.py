"""Queries to Prometheus."""

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp

from driftloop.controller.runtime.readings.fetch import fetch_json, field
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample


@dataclass(frozen=True)
class Series:
    """One series of a range selector: (seconds since the epoch, value) in order of time."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """The query API at `url`; without one every query is MetricsUnavailable."""

    def __init__(self, session: aiohttp.ClientSession, url: str | None, seconds: float = 10.0) -> None:
        self._session = session
        self._url = url.rstrip("/") if url else None
        self._seconds = seconds

    @property
    def configured(self) -> bool:
        """Whether there is one to ask."""
        return self._url is not None

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """An instant vector. Raises MetricsUnavailable, also for a NaN or an infinity in it.

        Left out, a counter of errors that is NaN would read as no errors, which is good news that nobody brought.
        """
        rows = await self._query(promql, at, "vector")
        found = [Sample(_labels(row), _point(row.get("value"))[1]) for row in rows]
        for sample in found:
            if not math.isfinite(sample.value):
                raise MetricsUnavailable(f"{sample.labels} is {sample.value}, which is no number to decide on")
        return found

    async def series(self, selector: str, at: datetime | None = None) -> list[Series]:
        """The raw points of a range selector (`metric{...}[5m]`). Raises MetricsUnavailable."""
        rows = await self._query(selector, at, "matrix")
        return [Series(_labels(row), tuple(_point(point) for point in row.get("values") or [])) for row in rows]

    async def _query(self, promql: str, at: datetime | None, shape: str) -> list[dict[str, Any]]:
        if self._url is None:
            raise MetricsUnavailable("no Prometheus: start the operator with --prometheus-url")
        params = [("query", promql), ("timeout", f"{self._seconds:g}s")]
        if at is not None:
            params.append(("time", f"{at.timestamp():.3f}"))
        answer = await fetch_json(self._session, f"{self._url}/api/v1/query", params, seconds=self._seconds)
        data = field(answer, "data", dict, self._url)
        if data.get("resultType") != shape:
            raise MetricsUnavailable(f"{self._url}: expected a {shape} of {promql}, got {data.get('resultType')}")
        rows = field(data, "result", list, self._url)
        return [row for row in rows if isinstance(row, dict)]


def _labels(row: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (row.get("metric") or {}).items()}


def _point(point: Any) -> tuple[float, float]:
    try:
        return float(point[0]), float(point[1])
    except (TypeError, ValueError, IndexError) as error:
        raise MetricsUnavailable(f"not a point of a series: {str(point)[:100]}") from error

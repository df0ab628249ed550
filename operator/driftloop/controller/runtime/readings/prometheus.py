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
    """One series of a range selector. Points are (seconds since the epoch, value), in order of time."""

    labels: dict[str, str]
    points: tuple[tuple[float, float], ...]


class Prometheus:
    """The query API at `url`. Without a URL every query raises MetricsUnavailable."""

    def __init__(self, session: aiohttp.ClientSession, url: str | None, seconds: float = 10.0) -> None:
        self._session = session
        self._url = url.rstrip("/") if url else None
        self._seconds = seconds

    @property
    def configured(self) -> bool:
        """Whether a URL is set."""
        return self._url is not None

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """The result of an instant query. Raises MetricsUnavailable, also if a value is NaN or infinite.

        Such values can't be left out: a missing error counter would look like no errors.
        """
        rows = await self._query(promql, at, "vector")
        samples = [Sample(_labels(row), _point(row.get("value"))[1]) for row in rows]
        for sample in samples:
            if not math.isfinite(sample.value):
                raise MetricsUnavailable(f"{sample.labels} is {sample.value}, which is not a finite number")
        return samples

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
        document = await fetch_json(self._session, f"{self._url}/api/v1/query", params, seconds=self._seconds)
        data = field(document, "data", dict, self._url)
        if data.get("resultType") != shape:
            raise MetricsUnavailable(f"{self._url}: expected a {shape} for {promql}, got {data.get('resultType')}")
        rows = field(data, "result", list, self._url)
        return [row for row in rows if isinstance(row, dict)]


def _labels(row: dict[str, Any]) -> dict[str, str]:
    return {str(key): str(value) for key, value in (row.get("metric") or {}).items()}


def _point(point: Any) -> tuple[float, float]:
    try:
        return float(point[0]), float(point[1])
    except (TypeError, ValueError, IndexError) as error:
        raise MetricsUnavailable(f"not a point of a series: {str(point)[:100]}") from error

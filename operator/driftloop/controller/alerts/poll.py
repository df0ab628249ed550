"""Asks for alerts, at the start and again and again: a webhook that came while nobody listened comes never again.

Alertmanagers know what fires now, unsilenced and uninhibited; Prometheus knows what has fired and ended since.
Only the leader polls.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import aiohttp

from driftloop.contract.names import ALERT_NAME
from driftloop.controller.alerts import history
from driftloop.controller.alerts.alerts import Alert, BadAlert, concerned, parse, triggers
from driftloop.controller.alerts.record import record
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.metrics import ALERT_POLLS, ERRORS
from driftloop.controller.runtime.readings.fetch import fetch_json
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable

log = logging.getLogger(__name__)
OVERLAP = 600.0  # seconds of history that each poll reads again


class Poll:
    """Polls `urls` (Alertmanagers) and Prometheus."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        prometheus: Prometheus,
        urls: Sequence[str],
        api: Api,
        caches: Caches,
        lookback: float,
    ) -> None:
        self._session = session
        self._prometheus = prometheus
        self._urls = [url.rstrip("/") for url in urls]
        self._api = api
        self._caches = caches
        self._lookback = lookback
        self._read_until: float | None = None  # history was read up to then, in monotonic time

    async def run(self, period: float) -> None:
        """Poll for ever. What fails is logged and asked again the next time."""
        while True:
            await self.once()
            ALERT_POLLS.inc()
            await asyncio.sleep(period)

    async def once(self) -> None:
        """One poll of everybody."""
        services = self._caches.list("InferenceService")
        names = {ALERT_NAME} | {str(each["alertname"]) for s in services for each in triggers(s) if "alertname" in each}
        started = time.monotonic()
        alerts = [alert for url in self._urls for alert in await self._firing(url, names)]
        past = await self._past(names)
        if await self._record([*alerts, *(past or [])], services) and past is not None:
            self._read_until = started

    async def _firing(self, url: str, names: set[str]) -> list[Alert]:
        params = [("active", "true"), ("silenced", "false"), ("inhibited", "false")]
        params.append(("filter", f'alertname=~"{history.names_regex(names)}"'))
        try:
            found = await fetch_json(self._session, f"{url}/api/v2/alerts", params)
        except MetricsUnavailable as error:
            ERRORS.labels("poll").inc()
            log.warning("can't poll alerts: %s", error)
            return []
        return read_alerts(found)

    async def _past(self, names: set[str]) -> list[Alert] | None:
        """What fired since the last time; None when it can't be told, for want of Prometheus or of the silences."""
        since = self._lookback
        if self._read_until is not None:
            since = min(since, time.monotonic() - self._read_until + OVERLAP)
        try:
            silenced = [each for url in self._urls for each in await self._silences(url)]
            return history.fired(await self._prometheus.series(history.selector(names, since)), silenced)
        except (MetricsUnavailable, ValueError) as error:
            if self._prometheus.configured:
                ERRORS.labels("poll").inc()
                log.warning("can't read past alerts: %s", error)
            return None

    async def _silences(self, url: str) -> list[history.Silence]:
        return history.silences(await fetch_json(self._session, f"{url}/api/v2/silences"))

    async def _record(self, alerts: list[Alert], services: list[Obj]) -> bool:
        """Whether all of them are recorded."""
        wanted: dict[tuple[str, str], list[Alert]] = defaultdict(list)
        for alert in alerts:
            for service in concerned(alert, services):
                wanted[service["metadata"]["namespace"], service["metadata"]["name"]].append(alert)
        complete = True
        for place, each in wanted.items():
            try:
                await record(self._api, *place, each, "Poll")
            except ApiError as error:
                ERRORS.labels("poll").inc()
                log.warning("alerts not recorded: %s", error)
                complete = False
        return complete


def read_alerts(found: Any) -> list[Alert]:
    """The alerts of /api/v2/alerts. What is none is logged: the others still count."""
    alerts = []
    for each in found if isinstance(found, list) else [found]:
        try:
            alerts.append(parse(each))
        except BadAlert as error:
            ERRORS.labels("poll").inc()
            log.warning("not an alert: %s", error)
    return alerts

"""Poll for alerts, at the start and periodically: a webhook is lost if no replica receives it.

An Alertmanager reports the alerts that fire now and are neither silenced nor inhibited. Prometheus reports the alerts
that have fired and ended since the previous poll. Only the leader polls.
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
    """Polls the Alertmanagers at `urls`, and Prometheus."""

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
        self._read_until: float | None = None  # monotonic time up to which the history was read

    async def run(self, period: float) -> None:
        """Poll forever. A failure is logged, and the next poll asks again."""
        while True:
            await self.once()
            ALERT_POLLS.inc()
            await asyncio.sleep(period)

    async def once(self) -> None:
        """Poll each Alertmanager and Prometheus once, and record the alerts."""
        services = self._caches.list("InferenceService")
        listed = [trigger for service in services for trigger in triggers(service)]
        names = {ALERT_NAME} | {str(trigger["alertname"]) for trigger in listed if "alertname" in trigger}
        started = time.monotonic()
        alerts = [alert for url in self._urls for alert in await self._firing(url, names)]
        past = await self._past(names)
        if await self._record([*alerts, *(past or [])], services) and past is not None:
            self._read_until = started

    async def _firing(self, url: str, names: set[str]) -> list[Alert]:
        params = [("active", "true"), ("silenced", "false"), ("inhibited", "false")]
        params.append(("filter", f'alertname=~"{history.names_regex(names)}"'))
        try:
            answer = await fetch_json(self._session, f"{url}/api/v2/alerts", params)
        except MetricsUnavailable as error:
            ERRORS.labels("poll").inc()
            log.warning("can't poll alerts: %s", error)
            return []
        return read_alerts(answer)

    async def _past(self, names: set[str]) -> list[Alert] | None:
        """The alerts that fired since the previous poll; None when Prometheus or the silences can't be read.

        Without an Alertmanager nothing is known of silences, and a silence must keep an alert from retraining.
        """
        if not self._urls:
            return None
        since = self._lookback
        if self._read_until is not None:
            since = min(since, time.monotonic() - self._read_until + OVERLAP)
        try:
            series = await self._prometheus.series(history.selector(names, since))
            silences = [silence for url in self._urls for silence in await self._silences(url)] if series else []
            silenced = [
                (silence, await self._prometheus.series(history.selector(names, since, silence)))
                for silence in history.relevant(series, silences)
            ]
            return history.fired(series, silenced)
        except (MetricsUnavailable, ValueError) as error:
            if self._prometheus.configured:
                ERRORS.labels("poll").inc()
                log.warning("can't read past alerts: %s", error)
            return None

    async def _silences(self, url: str) -> list[history.Silence]:
        return history.silences(await fetch_json(self._session, f"{url}/api/v2/silences"))

    async def _record(self, alerts: list[Alert], services: list[Obj]) -> bool:
        """Record the alerts in the services they concern. Returns whether all were recorded."""
        by_service: dict[tuple[str, str], list[Alert]] = defaultdict(list)
        for alert in alerts:
            for service in concerned(alert, services):
                by_service[service["metadata"]["namespace"], service["metadata"]["name"]].append(alert)
        complete = True
        for service_key, own_alerts in by_service.items():
            try:
                await record(self._api, *service_key, own_alerts, "Poll")
            except ApiError as error:
                ERRORS.labels("poll").inc()
                log.warning("can't record alerts: %s", error)
                complete = False
        return complete


def read_alerts(answer: Any) -> list[Alert]:
    """Parse an answer of /api/v2/alerts. An entry that is not an alert is logged and left out."""
    alerts = []
    for raw in answer if isinstance(answer, list) else [answer]:
        try:
            alerts.append(parse(raw))
        except BadAlert as error:
            ERRORS.labels("poll").inc()
            log.warning("Alertmanager returned an invalid alert: %s", error)
    return alerts

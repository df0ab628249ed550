"""The receiver of Alertmanager's webhooks. It answers 200 only if every alert is recorded in the services it concerns.

Alertmanager retries after a 5xx but not after a 4xx (https://github.com/prometheus/alertmanager/issues/2457), so a 4xx
is only for a request that is itself wrong.
"""

import hmac
import json
import logging
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from driftloop.controller.alerts.alerts import Alert, BadAlert, concerned, parse
from driftloop.controller.alerts.record import SERVICE, record
from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.metrics import ALERTS, ERRORS
from driftloop.controller.vocabulary.plan import Obj

log = logging.getLogger(__name__)
MAX_BODY = 1 << 20


class BadRequest(ValueError):
    """A request that is not a webhook of Alertmanager."""


class Webhook:
    """Serves `POST /alerts`. Alerts from namespaces outside `namespaces` (empty: all) are ignored."""

    def __init__(self, api: Api, token_file: Path, namespaces: Sequence[str]) -> None:
        self._api = api
        self._token_file = token_file
        self._namespaces = frozenset(namespaces)

    def app(self) -> web.Application:
        """The aiohttp application. It refuses a body larger than MAX_BODY with 413."""
        app = web.Application(client_max_size=MAX_BODY)
        app.add_routes([web.post("/alerts", self._receive)])
        return app

    async def _receive(self, request: web.Request) -> web.Response:
        if not self._authorised(request.headers.get("Authorization", "")):
            return web.json_response({"error": "a valid bearer token is required"}, status=401)
        try:
            alerts = parse_webhook(await request.read())
        except BadRequest as error:
            ERRORS.labels("webhook").inc()
            return web.json_response({"error": str(error)}, status=400)
        try:
            return web.json_response(await self._record(alerts))
        except ApiError as error:
            ERRORS.labels("webhook").inc()
            log.error("can't record alerts: %s", error)
            return web.json_response({"error": "the alerts could not be recorded: try again"}, status=500)

    def _authorised(self, header: str) -> bool:
        """Whether the header has the token, compared in constant time. No request is authorised by an empty token.

        The file is read for each request, so that a rotated Secret takes effect at once.
        """
        try:
            token = self._token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            log.error("can't read the token of the webhook: %s", error)
            return False
        scheme, _, given = header.partition(" ")
        same = hmac.compare_digest(given.strip().encode(errors="replace"), token.encode())
        return bool(token) and scheme.lower() == "bearer" and same

    async def _record(self, alerts: list[Alert]) -> dict[str, int]:
        services = {namespace: await self._services(namespace) for namespace in {alert.namespace for alert in alerts}}
        by_service: dict[tuple[str, str], list[Alert]] = defaultdict(list)
        ignored = 0
        for alert in alerts:
            affected = concerned(alert, services[alert.namespace])
            ignored += not affected
            for service in affected:
                by_service[service["metadata"]["namespace"], service["metadata"]["name"]].append(alert)
        recorded = sum([await record(self._api, *key, own, "Webhook") for key, own in by_service.items()])
        ALERTS.labels("Webhook", "ignored").inc(ignored)
        return {"received": len(alerts), "recorded": recorded, "ignored": ignored}

    async def _services(self, namespace: str) -> list[Obj]:
        if not namespace or (self._namespaces and namespace not in self._namespaces):
            return []
        return [service async for page, _ in self._api.pages(SERVICE, namespace) for service in page]


def parse_webhook(body: bytes) -> list[Alert]:
    """Parse a webhook of version 4. Resolved alerts are included, because they have fired. Raises BadRequest."""
    try:
        document: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON") from None
    if not isinstance(document, dict) or document.get("version") != "4":
        raise BadRequest("version must be '4'")
    raw = document.get("alerts")
    if not isinstance(raw, list):
        raise BadRequest("alerts must be a list")
    alerts = []
    for index, entry in enumerate(raw):
        try:
            alerts.append(parse(entry))
        except BadAlert as error:
            raise BadRequest(f"alerts[{index}]: {error}") from error
    return alerts

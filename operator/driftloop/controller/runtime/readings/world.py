"""What an observer may read: the caches, the clock, metrics and the settings. It writes nothing."""

from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp

from driftloop.controller.runtime.kube.caches import Caches, matching
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.runtime.readings.scrape import scrape
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.samples import Sample
from driftloop.controller.vocabulary.world import Objects


class Metrics:
    """Numbers, from Prometheus or from a pod."""

    def __init__(self, session: aiohttp.ClientSession, prometheus: Prometheus) -> None:
        self._session = session
        self._prometheus = prometheus

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """An instant query. Raises MetricsUnavailable."""
        return await self._prometheus.query(promql, at)

    async def scrape(self, pod: Obj, port: int) -> list[Sample]:
        """The pod's own /metrics. Raises MetricsUnavailable."""
        return await scrape(self._session, pod, port)


class World:
    """Objects come from the caches and are shared: readers never change them."""

    def __init__(
        self,
        caches: Caches,
        metrics: Metrics,
        settings: Settings,
        nodes: Nodes,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._caches = caches
        self.metrics = metrics
        self.settings = settings
        self.nodes = nodes
        self.now = now

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """One object."""
        return self._caches.get(kind, namespace, name)

    def list(self, kind: str, namespace: str, labels: dict[str, str] | None = None) -> Objects:
        """The objects of a namespace that carry all of `labels`, by name."""
        return matching(self._caches.list(kind, namespace), labels)

    def owned(self, kind: str, namespace: str, owner_uid: str) -> Objects:
        """The objects that name `owner_uid` among their owners, by name."""
        return self._caches.owned(kind, namespace, owner_uid)

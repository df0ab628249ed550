"""Everything that an observer may read: caches, clock, metrics and settings. Nothing can be written."""

from collections.abc import Callable
from datetime import UTC, datetime

import aiohttp

from driftloop.contract.activity import Activity
from driftloop.contract.names import METRICS_PORT
from driftloop.contract.topics import TopicsReport
from driftloop.controller.runtime.kube.caches import Caches, matching
from driftloop.controller.runtime.kube.nodes import Nodes
from driftloop.controller.runtime.kube.routes import Routes
from driftloop.controller.runtime.readings.activity import read_activity
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.runtime.readings.scrape import scrape
from driftloop.controller.runtime.readings.topics import read_topics
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.samples import Sample
from driftloop.controller.vocabulary.world import Objects


class Metrics:
    """Samples from Prometheus or from a pod."""

    def __init__(self, session: aiohttp.ClientSession, prometheus: Prometheus) -> None:
        self._session = session
        self._prometheus = prometheus

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """Run an instant query. Raises MetricsUnavailable."""
        return await self._prometheus.query(promql, at)

    async def scrape(self, pod: Obj, port: int) -> list[Sample]:
        """Read /metrics of a pod. Raises MetricsUnavailable."""
        return await scrape(self._session, pod, port)

    async def topics(self, pod: Obj, since: datetime, together: float) -> TopicsReport:
        """Ask a serving pod what its requests since then are about. Raises MetricsUnavailable."""
        return await read_topics(self._session, pod, METRICS_PORT, since, together)

    async def activity(self, pod: Obj) -> Activity:
        """Ask a serving pod, or the door, how busy it is. Raises MetricsUnavailable."""
        return await read_activity(self._session, pod, METRICS_PORT)


class World:
    """Everything that an observer may read. Objects come from the caches and are shared, so never change them."""

    def __init__(
        self,
        caches: Caches,
        metrics: Metrics,
        settings: Settings,
        nodes: Nodes,
        routes: Routes,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._caches = caches
        self.metrics = metrics
        self.settings = settings
        self.nodes = nodes
        self.routes = routes
        self.now = now

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """The object with this name, or None."""
        return self._caches.get(kind, namespace, name)

    def list(self, kind: str, namespace: str, labels: dict[str, str] | None = None) -> Objects:
        """Objects of a namespace that have all of `labels`, sorted by name."""
        return matching(self._caches.list(kind, namespace), labels)

    def owned(self, kind: str, namespace: str, owner_uid: str) -> Objects:
        """Objects with `owner_uid` among their owners, sorted by name."""
        return self._caches.owned(kind, namespace, owner_uid)

"""Interfaces that an observer may read: objects, metrics and the clock. Nothing can be written."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from driftloop.contract.activity import Activity
from driftloop.contract.topics import TopicsReport
from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.reasons import Reason
from driftloop.controller.vocabulary.samples import Sample

Objects = list[Obj]  # inside a class with a method `list`, the name `list` means that method


class Queries(Protocol):
    """Samples from Prometheus."""

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """Run an instant query. Raises MetricsUnavailable."""
        ...


class Metrics(Queries, Protocol):
    """Samples from Prometheus or from a pod."""

    async def scrape(self, pod: Obj, port: int) -> list[Sample]:
        """Read /metrics of a pod. Raises MetricsUnavailable."""
        ...

    async def topics(self, pod: Obj, since: datetime, together: float) -> TopicsReport:
        """Ask a serving pod what its requests since then are about. Raises MetricsUnavailable."""
        ...

    async def activity(self, pod: Obj) -> Activity:
        """Ask a serving pod, or the door, how busy it is. Raises MetricsUnavailable."""
        ...


class Nodes(Protocol):
    """Facts about nodes."""

    async def gpu_memory(self, node_selector: Mapping[str, str]) -> tuple[int, ...]:
        """GPU memory sizes, in bytes, of the nodes that match `node_selector`; empty if unknown."""
        ...


@dataclass(frozen=True)
class RouteUnknown:
    """Why an HTTPRoute can't be read."""

    reason: Reason
    message: str


class Routes(Protocol):
    """HTTPRoutes of Gateway API, which a cluster may not have."""

    async def route(self, namespace: str, name: str) -> Obj | RouteUnknown | None:
        """The route with this name; None if it does not exist."""
        ...


class World(Protocol):
    """Everything that an observer may read. Objects come from the caches and are shared, so never change them."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def nodes(self) -> Nodes: ...

    @property
    def routes(self) -> Routes: ...

    @property
    def settings(self) -> Settings: ...

    def now(self) -> datetime:
        """The current time."""
        ...

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """The object with this name, or None."""
        ...

    def list(self, kind: str, namespace: str, labels: dict[str, str] | None = None) -> Objects:
        """Objects of a namespace that have all of `labels`, sorted by name."""
        ...

    def owned(self, kind: str, namespace: str, owner_uid: str) -> Objects:
        """Objects with `owner_uid` among their owners, sorted by name."""
        ...


class Lookup(Protocol):
    """Cached objects of all namespaces, to find which custom resources a change concerns."""

    def by_uid(self, uid: str) -> Obj | None:
        """The object with this UID, or None."""
        ...

    def list(self, kind: str, namespace: str | None = None) -> Objects:
        """Objects of a kind, in one namespace or in all, sorted by name."""
        ...

"""What an observer may read: objects, numbers and the clock. It writes nothing."""

from collections.abc import Mapping
from datetime import datetime
from typing import Protocol

from driftloop.controller.vocabulary.plan import Obj, Settings
from driftloop.controller.vocabulary.samples import Sample

Objects = list[Obj]  # in a class with a method `list` that name means the method


class Metrics(Protocol):
    """Numbers, from Prometheus or from a pod."""

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """An instant query. Raises MetricsUnavailable."""
        ...

    async def scrape(self, pod: Obj, port: int) -> list[Sample]:
        """The pod's own /metrics. Raises MetricsUnavailable."""
        ...


class Nodes(Protocol):
    """What nodes say of themselves."""

    async def gpu_memory(self, node_selector: Mapping[str, str]) -> tuple[int, ...]:
        """Bytes of a GPU on each node with `node_selector`'s labels, each size once; empty where it is not known."""
        ...


class World(Protocol):
    """Objects come from the caches and are shared: readers never change them."""

    @property
    def metrics(self) -> Metrics: ...

    @property
    def nodes(self) -> Nodes: ...

    @property
    def settings(self) -> Settings: ...

    def now(self) -> datetime:
        """The time of this reconcile."""
        ...

    def get(self, kind: str, namespace: str, name: str) -> Obj | None:
        """One object."""
        ...

    def list(self, kind: str, namespace: str, labels: dict[str, str] | None = None) -> Objects:
        """The objects of a namespace that carry all of `labels`, by name."""
        ...

    def owned(self, kind: str, namespace: str, owner_uid: str) -> Objects:
        """The objects that name `owner_uid` among their owners, by name."""
        ...


class Lookup(Protocol):
    """Objects of all namespaces, as far as finding whom a change concerns needs them."""

    def by_uid(self, uid: str) -> Obj | None:
        """The object of that UID."""
        ...

    def list(self, kind: str, namespace: str | None = None) -> Objects:
        """All objects of a kind, of one namespace or all, by name."""
        ...

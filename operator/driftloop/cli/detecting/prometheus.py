"""Feeds the detector with the counters of a Driftloop proxy in Prometheus."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.cli.detecting.stream import WINDOW, Alarm, noted
from driftloop.cli.manifests import BadInput
from driftloop.contract.names import Metric
from driftloop.controller.drift.watch import watch
from driftloop.controller.traffic import LOOKBACK, SETTLE, read_batch, selector
from driftloop.controller.vocabulary.conditions import parse_timestamp
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample
from driftloop.controller.vocabulary.world import Queries


@dataclass(frozen=True)
class Labels:
    """The labels of a proxy's counters. An empty namespace: Prometheus adds no such label."""

    service: str
    namespace: str = ""
    version: str | None = None  # None: the only one that there is

    @property
    def source(self) -> str:
        """What the counters are about."""
        return f"service {self.namespace}/{self.service}" if self.namespace else f"service {self.service}"


class _Strict:
    """Queries that remember a failure: for the operator a failure and no samples are the same, here they are not."""

    def __init__(self, queries: Queries) -> None:
        self._queries = queries
        self.failure: MetricsUnavailable | None = None

    async def query(self, promql: str, at: datetime | None = None) -> list[Sample]:
        """Run an instant query. Raises MetricsUnavailable."""
        try:
            return await self._queries.query(promql, at)
        except MetricsUnavailable as error:
            self.failure = error
            raise


async def version_of(queries: Queries, labels: Labels) -> str:
    """The version that the counters are about. Raises BadInput, MetricsUnavailable."""
    wanted = {"namespace": labels.namespace, "inference_service": labels.service}
    found = await queries.query(
        f"count by (model_version) (last_over_time({selector([Metric.DRIFT_BIN], wanted)}[1h]))"
    )
    versions = sorted(sample.labels.get("model_version", "") for sample in found)
    if labels.version is not None:
        return labels.version
    if not versions:
        raise BadInput(
            f"Prometheus has no {Metric.DRIFT_BIN} of {labels.source}. Check --service and --namespace, and that the "
            "proxy's model folder has a drift_profile.json"
        )
    if len(versions) > 1:
        raise BadInput(f"{labels.source} has several versions: set --version to one of {', '.join(versions)}")
    return versions[0]


async def read(
    queries: Queries,
    labels: Labels,
    version: str,
    status: DriftStatus,
    spec: Drift,
    since: datetime,
    now: datetime,
    checked: Callable[[DriftStatus], bool],
) -> tuple[DriftStatus, tuple[Alarm, ...]]:
    """The status after all windows until now, and the alarms. After each `checked` says whether to stop.

    A new version, or one without a status, is read from `since`. Raises MetricsUnavailable.
    """
    strict, alarms = _Strict(queries), list[Alarm]()
    if status.version != version:
        status = watch(status, version, None, spec, since)
    until, step = parse_timestamp(status.consumed_until or ""), WINDOW
    while (until := until + step) <= now - SETTLE:
        begin = parse_timestamp(status.consumed_until or "")
        counters = await read_batch(strict, labels.namespace, labels.service, version, begin, until)
        if strict.failure is not None:
            raise strict.failure
        # Without a sample the window goes on, as in the operator. Larger steps pass a long time without any.
        step = min(2 * step, LOOKBACK) if counters is None else WINDOW
        before, status = status, watch(status, version, counters, spec, until)
        alarms = noted(alarms, before, status, until)
        if checked(status):
            break
    return status, tuple(alarms)


def first_window(since: timedelta, now: datetime) -> datetime:
    """Where a first run begins."""
    return (now - since).replace(second=0, microsecond=0)

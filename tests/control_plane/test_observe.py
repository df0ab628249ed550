"""The queries on a real Prometheus, with samples at given times."""

import math
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import cast

import aiohttp
import pytest

from control_plane.monitoring import Process, program
from driftloop.controller.drift.detector import FEEDBACK
from driftloop.controller.runtime.readings.prometheus import Prometheus
from driftloop.controller.traffic import SETTLE, arms, eligible_samples, read_batch
from driftloop.controller.vocabulary.world import World
from testcluster.binaries import binary

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

START = datetime(2026, 1, 1, 12, tzinfo=UTC)
SCRAPE = 5  # seconds

# One series: labels, the second of its first sample, and one value per scrape (None: not scraped).
Points = tuple[str, int, Sequence[float | None]]


def ramp(start: float, step: float, count: int) -> list[float]:
    return [start + step * i for i in range(count)]


def bins(pod: str, first: int, values: Sequence[float | None], version: str = "v1", bin_: str = "00") -> Points:
    labels = f'namespace="ns",pod="{pod}",inference_service="desk",model_version="{version}",revision="r-{version}"'
    return f'driftloop_drift_bin_total{{{labels},signal="oov",bin="{bin_}"}}', first, values


def metric(name: str, extra: str, values: Sequence[float | None], version: str = "v1", pod: str = "a") -> Points:
    labels = f'namespace="ns",pod="{pod}",inference_service="desk",model_version="{version}",revision="r-{version}"'
    return f"{name}{{{labels},{extra}}}", 0, values


SERIES: list[Points] = [
    bins("steady", 0, ramp(100, 2, 61)),  # 24 per minute for five minutes, starting at 100
    bins("born", 90, ramp(0, 1, 43)),
    bins("dies", 0, ramp(0, 1, 19)),  # the last scrape is at 90 s
    bins("restarts", 0, [*ramp(50, 1, 15), *ramp(0, 1, 46)]),  # a restart at 75 s
    bins("unseen", 0, [10.0, *[None] * 29, *ramp(40, 1, 31)]),  # not scraped from 5 s to 150 s
    bins("other", 0, ramp(0, 100, 61), version="v2"),
    *(bins("steady", 0, ramp(0, 1, 61), bin_="01") for _ in range(1)),
    metric("driftloop_feedback_total", 'rating="positive"', ramp(0, 3, 61)),
    metric("driftloop_feedback_total", 'rating="negative"', ramp(0, 1, 61)),
    metric("driftloop_feedback_total", 'rating="correction"', ramp(5, 1, 61)),
    metric("driftloop_drift_reference_mass", 'signal="oov",bin="00"', [0.75] * 61),
    metric("driftloop_drift_reference_mass", 'signal="oov",bin="01"', [0.25] * 61),
    metric("driftloop_drift_reference_mass", 'signal="oov",bin="00"', [0.75] * 61, pod="b"),
    metric("driftloop_drift_reference_rows", "", [3285] * 61),
    metric("driftloop_feedback_eligible_total", 'side="train"', ramp(0, 2, 61)),
    metric("driftloop_feedback_eligible_total", 'side="train"', ramp(0, 1, 61), version="v2"),
    metric("driftloop_feedback_eligible_total", 'side="heldOut"', ramp(0, 1, 61)),
    metric("driftloop_requests_total", 'route="/v1/completions",code="200"', ramp(0, 10, 61)),
    metric("driftloop_requests_total", 'route="/v1/completions",code="503"', ramp(0, 1, 61)),
    metric("driftloop_requests_total", 'route="/v1/completions",code="400"', ramp(0, 2, 61)),
    metric("driftloop_requests_total", 'route="/v1/chat/completions",code="429"', ramp(0, 2, 61)),
    metric("driftloop_requests_total", 'route="/v1/models",code="200"', ramp(0, 50, 61)),
    metric("driftloop_request_duration_seconds_bucket", 'route="/v1/completions",le="0.1"', ramp(0, 5, 61)),
    metric("driftloop_request_duration_seconds_bucket", 'route="/v1/completions",le="0.5"', ramp(0, 10, 61)),
    metric("driftloop_request_duration_seconds_bucket", 'route="/v1/completions",le="+Inf"', ramp(0, 10, 61)),
    metric("driftloop_request_duration_seconds_bucket", 'route="/v1/models",le="+Inf"', ramp(0, 50, 61)),
    metric("driftloop_time_per_output_token_seconds_bucket", 'route="/v1/completions",le="0.01"', ramp(0, 1, 61)),
    metric("driftloop_time_per_output_token_seconds_bucket", 'route="/v1/completions",le="+Inf"', ramp(0, 2, 61)),
]


class Filled(Process):
    """A Prometheus with SERIES that scrapes nothing."""

    name = "prometheus"

    def command(self) -> list[str]:
        samples = self.folder / "samples"
        samples.write_text(open_metrics(SERIES))
        make = [program("promtool"), "tsdb", "create-blocks-from", "openmetrics", str(samples), f"{self.folder}/data"]
        subprocess.run(make, check=True, capture_output=True, timeout=60)
        return [
            str(binary("prometheus")),
            f"--config.file={self.config('config.yml', {})}",
            f"--storage.tsdb.path={self.folder}/data",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{self.port}",
        ]


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Filled(tmp_path_factory.mktemp("prometheus")) as filled:
        yield filled.url


@pytest.fixture
async def world(prometheus: str) -> AsyncIterator[World]:
    async with aiohttp.ClientSession() as session:
        now = START + timedelta(minutes=5) + SETTLE
        yield cast(World, SimpleNamespace(metrics=Prometheus(session, prometheus), now=lambda: now))


def open_metrics(series: Sequence[Points]) -> str:
    lines = []
    for labels, first, values in series:
        for i, value in enumerate(values):
            if value is not None:
                at = START + timedelta(seconds=first + i * SCRAPE)
                lines.append(f"{labels.replace(',}', '}')} {value:g} {at.timestamp():.0f}")
    return "\n".join([*lines, "# EOF"]) + "\n"


async def counted(world: World, since: int, until: int) -> tuple[float, ...]:
    found = await read_batch(
        world.metrics, "ns", "desk", "v1", START + timedelta(seconds=since), START + timedelta(seconds=until)
    )
    assert found is not None
    return tuple(found.bins["oov"])


async def test_increments_are_exact_a_series_and_of_one_version(world: World) -> None:
    # steady 24, restarts 15, dies 12, in the second minute: steady 24, born (90..120) 6, dies (to 90 s) 6,
    # restarts 72 -> reset at 75 s: 9 since then
    assert await counted(world, 0, 60) == (24 + 12 + 12, 12)
    assert await counted(world, 60, 120) == (24 + 6 + 6 + 9, 12)


async def test_windows_side_by_side_count_each_request_once(world: World) -> None:
    parts = [await counted(world, start, start + 20) for start in range(80, 300, 20)]
    assert tuple(map(sum, zip(*parts, strict=True))) == await counted(world, 80, 300)


async def test_a_pod_that_was_not_scraped_for_a_while_counts_from_where_it_was(world: World) -> None:
    # unseen: 10 at 0 s, 40 at 150 s and then 1 more per scrape
    assert (await counted(world, 140, 160))[0] == 4 * 2 + 4 + 4 + (42 - 10)


async def test_ratings_and_the_profile_come_along(world: World) -> None:
    found = await read_batch(
        world.metrics, "ns", "desk", "v1", START, START + timedelta(seconds=60, microseconds=900_000)
    )
    assert found is not None
    assert found.bins[FEEDBACK] == (36, 24)
    assert found.reference == {"oov": (0.75, 0.25)}
    assert found.reference_rows == 3285
    assert found.until == START + timedelta(seconds=60)
    assert found.requests == 60


@pytest.mark.parametrize(
    ("namespace", "service", "version"), [("else", "desk", "v1"), ("ns", 'de"sk\\', "v1"), ("ns", "desk", "v3")]
)
async def test_nothing_seen_is_unknown_not_zero(world: World, namespace: str, service: str, version: str) -> None:
    assert await read_batch(world.metrics, namespace, service, version, START, START + timedelta(seconds=60)) is None
    assert await eligible_samples(world, "else", service, START) is None


async def test_an_empty_window_is_unknown(world: World) -> None:
    assert await read_batch(world.metrics, "ns", "desk", "v1", START, START) is None


async def test_eligible_samples_of_all_versions_count_on_the_training_side(world: World) -> None:
    assert await eligible_samples(world, "ns", "desk", START + timedelta(seconds=60)) == (2 + 1) * 48


async def test_arms_are_read_by_revision(world: World) -> None:
    found = await arms(world, "ns", "desk", ["r-v1", "r-v9"], START)
    assert found is not None
    one, other = found["r-v1"], found["r-v9"]
    assert (one.requests, one.failures, one.refused) == (15 * 60, 3 * 60, 2 * 60)
    assert (one.ratings, one.negative) == (5 * 60, 2 * 60)
    assert one.latency == {0.1: 300, 0.5: 600, math.inf: 600}
    assert one.token_latency == {0.01: 60, math.inf: 120}
    assert (other.requests, other.latency, other.token_latency) == (0, {}, {})

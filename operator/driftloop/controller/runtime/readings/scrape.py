"""Reads the metrics of a pod from the pod itself, for clusters without Prometheus."""

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from driftloop.controller.runtime.readings.fetch import fetch
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable, Sample, finite

LIMIT = 2 << 20  # bytes


async def scrape(session: aiohttp.ClientSession, pod: Obj, port: int, seconds: float = 3.0) -> list[Sample]:
    """The finite samples of the pod's `/metrics` on `port`. Raises MetricsUnavailable."""
    text = await fetch(session, f"{url_of(pod, port)}/metrics", None, LIMIT, seconds)
    return parse(text.decode(errors="replace"))


def url_of(pod: Obj, port: int) -> str:
    """Where a pod's port is. Raises MetricsUnavailable."""
    address = field(pod, "status", "podIP")
    if not address:
        raise MetricsUnavailable(f"pod {pod['metadata']['name']} has no IP yet")
    host = f"[{address}]" if ":" in address else address
    return f"http://{host}:{port}"


def parse(text: str) -> list[Sample]:
    """The finite samples of a text in the exposition format. Raises MetricsUnavailable if it is not valid."""
    try:
        families = list(text_string_to_metric_families(text))
    except (ValueError, IndexError, KeyError) as error:
        raise MetricsUnavailable(f"not in the exposition format: {error}") from error
    return finite(
        [
            Sample({**sample.labels, "__name__": sample.name}, float(sample.value))
            for family in families
            for sample in family.samples
        ]
    )

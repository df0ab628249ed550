"""Asks a pod how busy it is."""

import aiohttp
from pydantic import ValidationError

from driftloop.contract.activity import Activity
from driftloop.contract.names import ACTIVITY_PATH
from driftloop.controller.runtime.readings.fetch import fetch_json
from driftloop.controller.runtime.readings.scrape import url_of
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable

LIMIT = 4 << 10  # bytes


async def read_activity(session: aiohttp.ClientSession, pod: Obj, port: int, seconds: float = 3.0) -> Activity:
    """The pod's answer. Raises MetricsUnavailable, also for a pod of an earlier release, which has none."""
    url = f"{url_of(pod, port)}{ACTIVITY_PATH}"
    document = await fetch_json(session, url, limit=LIMIT, seconds=seconds)
    try:
        return Activity.model_validate(document)
    except ValidationError as error:
        raise MetricsUnavailable(f"{url}: not an answer about requests") from error

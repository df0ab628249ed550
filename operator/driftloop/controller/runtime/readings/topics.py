"""Asks a serving pod what its new requests are about."""

from datetime import datetime

import aiohttp
from pydantic import ValidationError

from driftloop.contract.names import TOPICS_PATH
from driftloop.contract.topics import TopicsReport
from driftloop.controller.runtime.readings.fetch import fetch_json
from driftloop.controller.runtime.readings.scrape import url_of
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.samples import MetricsUnavailable

LIMIT = 64 << 10  # bytes


async def read_topics(
    session: aiohttp.ClientSession, pod: Obj, port: int, since: datetime, together: float, seconds: float = 3.0
) -> TopicsReport:
    """The pod's answer. Raises MetricsUnavailable, also if the pod does not know the question."""
    url = f"{url_of(pod, port)}{TOPICS_PATH}"
    question = [("since", since.isoformat()), ("together", f"{together:.2f}")]
    document = await fetch_json(session, url, question, limit=LIMIT, seconds=seconds)
    try:
        return TopicsReport.model_validate(document)
    except ValidationError as error:
        raise MetricsUnavailable(f"{url}: not an answer about topics") from error

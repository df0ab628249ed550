"""The least Kubernetes that the operator works with, asked at the start: an older one drops fields without a word."""

import asyncio
import re

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.vocabulary.plan import Obj

# JobSuccessPolicy is on by default since 1.31. Without it index 0 of a training ends well, the other pods wait for a
# head that never comes, and the Job fails: https://kubernetes.io/docs/concepts/workloads/controllers/job/#success-policy
LEAST = (1, 31)
TRIES, PAUSE_SECONDS = 30, 2.0


class UnsupportedServer(Exception):
    """The API server is too old; the message says what is needed."""


async def require_supported(api: Api, pause: float = PAUSE_SECONDS) -> None:
    """Raises UnsupportedServer, or the last ApiError when the server can't be asked for a minute."""
    for left in reversed(range(TRIES)):
        try:
            found = await api.version()
        except ApiError:
            if left == 0:
                raise
            await asyncio.sleep(pause)
            continue
        if (obstacle := too_old(found)) is not None:
            raise UnsupportedServer(obstacle)
        return


def too_old(version: Obj) -> str | None:
    """Why this answer of /version will not do; None when it will. A minor version may read `31+`. Pure."""
    numbers = [re.match(r"\d+", str(version.get(part) or "")) for part in ("major", "minor")]
    found = tuple(int(number[0]) for number in numbers if number)
    if len(found) == 2 and found >= LEAST:
        return None
    said = version.get("gitVersion") or "an unknown version"
    return (
        f"the API server is {said}, Driftloop needs Kubernetes {LEAST[0]}.{LEAST[1]} or newer: an older one drops the "
        "successPolicy of a Job, and trainings of several nodes would fail at their end"
    )

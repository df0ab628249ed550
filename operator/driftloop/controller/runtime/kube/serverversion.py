"""Checks the Kubernetes version at the start: an older version silently drops fields that the operator needs."""

import asyncio
import re

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.vocabulary.plan import Obj

# JobSuccessPolicy is enabled by default since 1.31. Without it the pod with index 0 of a training succeeds, the other
# pods wait for a head that never comes back, and the Job fails:
# https://kubernetes.io/docs/concepts/workloads/controllers/job/#success-policy
MINIMUM = (1, 31)
TRIES, PAUSE_SECONDS = 30, 2.0


class UnsupportedServer(Exception):
    """The API server is too old. The message names the required version."""


async def require_supported(api: Api, pause: float = PAUSE_SECONDS) -> None:
    """Check the server's version. Raises UnsupportedServer, or the last ApiError after a minute without an answer."""
    for left in reversed(range(TRIES)):
        try:
            version = await api.version()
        except ApiError:
            if left == 0:
                raise
            await asyncio.sleep(pause)
            continue
        if (obstacle := too_old(version)) is not None:
            raise UnsupportedServer(obstacle)
        return


def too_old(version: Obj) -> str | None:
    """Why the server's version is too old; None if it is supported. A minor version may be `31+`. Pure."""
    numbers = [re.match(r"\d+", str(version.get(part) or "")) for part in ("major", "minor")]
    parsed = tuple(int(number[0]) for number in numbers if number)
    if len(parsed) == 2 and parsed >= MINIMUM:
        return None
    actual = version.get("gitVersion") or "an unknown version"
    return (
        f"the API server is {actual}, but Driftloop needs Kubernetes {MINIMUM[0]}.{MINIMUM[1]} or newer: an older one "
        "drops the successPolicy of a Job, and trainings with several nodes would fail at their end"
    )

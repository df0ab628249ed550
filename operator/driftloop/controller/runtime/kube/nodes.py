"""GPU memory of nodes. Read when a job with GPUs is planned: nodes are too large and change too often to watch."""

import asyncio
import logging
from collections.abc import Callable, Mapping

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.vocabulary.objects import labels
from driftloop.controller.vocabulary.plan import Obj

log = logging.getLogger(__name__)

# NVIDIA's GPU feature discovery sets it, in MiB:
# https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery
GPU_MEMORY = "nvidia.com/gpu.memory"
KEPT_SECONDS = 60.0


class Nodes:
    """Reads nodes by label, at most once a minute for the same labels."""

    def __init__(self, api: Api | None, clock: Callable[[], float] | None = None) -> None:
        """`api` is None if the operator may not read nodes, because it only has rights in namespaces."""
        self._api = api
        self._clock = clock or asyncio.get_running_loop().time
        self._kept: dict[str, tuple[float, tuple[int, ...]]] = {}

    async def gpu_memory(self, node_selector: Mapping[str, str]) -> tuple[int, ...]:
        """GPU memory sizes, in bytes, of the nodes that match `node_selector`; empty if unknown.

        Raises ApiError if the request fails, except for missing rights.
        """
        if self._api is None:
            return ()
        selector = ",".join([GPU_MEMORY, *(f"{key}={value}" for key, value in sorted(node_selector.items()))])
        read_at, sizes = self._kept.get(selector, (0.0, ()))
        if selector in self._kept and self._clock() - read_at < KEPT_SECONDS:
            return sizes
        try:
            nodes = [node async for page, _ in self._api.pages(RESOURCES["Node"], None, selector) for node in page]
        except ApiError as error:
            if error.code != 403:
                raise
            log.warning("no right to read nodes, so their GPU memory is unknown: %s", error.message)
            nodes = []
        self._kept = {selector: (self._clock(), memories(nodes))} | self._recent()
        return self._kept[selector][1]

    def _recent(self) -> dict[str, tuple[float, tuple[int, ...]]]:
        return {key: kept for key, kept in self._kept.items() if self._clock() - kept[0] < KEPT_SECONDS}


def memories(nodes: list[Obj]) -> tuple[int, ...]:
    """The distinct sizes in bytes, in ascending order. Labels that are not numbers are ignored. Pure."""
    texts = (labels(node).get(GPU_MEMORY) or "" for node in nodes)
    return tuple(sorted({int(text) << 20 for text in texts if text.isdecimal() and int(text) > 0}))

"""GPU memory of nodes. Read when a job with GPUs is planned: nodes are too large and change too often to watch."""

import asyncio
import logging
import re
from collections.abc import Callable, Mapping

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.vocabulary.objects import labels
from driftloop.controller.vocabulary.plan import Obj

log = logging.getLogger(__name__)

# Labels of a node with the memory of one GPU in MiB, then labels with the name of its product. The first one that any
# node has is read. NVIDIA's GPU feature discovery, Karpenter on AWS, and GKE set them:
# https://github.com/NVIDIA/k8s-device-plugin/tree/main/docs/gpu-feature-discovery
# https://karpenter.sh/docs/concepts/scheduling/#well-known-labels
# https://cloud.google.com/kubernetes-engine/docs/how-to/gpus
GPU_MEMORY = "nvidia.com/gpu.memory"
MEMORY_LABELS = (GPU_MEMORY, "karpenter.k8s.aws/instance-gpu-memory")
PRODUCT_LABELS = ("nvidia.com/gpu.product", "cloud.google.com/gke-accelerator")
KEPT_SECONDS = 60.0
# Gigabytes of products whose names do not tell; the smallest, if there are several sizes. Powers of ten, as sellers
# count: a GPU has a little more.
_PRODUCTS: Mapping[str, int] = {
    **{"p4": 8, "p100": 12, "v100": 16, "t4": 16, "a2": 16, "a10": 24, "a10g": 24, "a30": 24, "l4": 24},
    **{"a40": 48, "l40": 48, "l40s": 48, "a100": 40, "h100": 80, "h200": 141, "b200": 180},
}


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
        chosen = [f"{key}={value}" for key, value in sorted(node_selector.items())]
        kept_as = ",".join(chosen)
        read_at, sizes = self._kept.get(kept_as, (0.0, ()))
        if kept_as in self._kept and self._clock() - read_at < KEPT_SECONDS:
            return sizes
        try:
            sizes = await self._read(self._api, chosen)
        except ApiError as error:
            if error.code != 403:
                raise
            log.warning("no right to read nodes, so their GPU memory is unknown: %s", error.message)
            sizes = ()
        self._kept = {kept_as: (self._clock(), sizes)} | self._recent()
        return sizes

    async def _read(self, api: Api, chosen: list[str]) -> tuple[int, ...]:
        for label in (*MEMORY_LABELS, *PRODUCT_LABELS):
            pages = api.pages(RESOURCES["Node"], None, ",".join([label, *chosen]))
            if sizes := memories([node async for page, _ in pages for node in page], label):
                return sizes
        return ()

    def _recent(self) -> dict[str, tuple[float, tuple[int, ...]]]:
        return {key: kept for key, kept in self._kept.items() if self._clock() - kept[0] < KEPT_SECONDS}


def memories(nodes: list[Obj], label: str = GPU_MEMORY) -> tuple[int, ...]:
    """The distinct sizes in bytes by this label, in ascending order. A value that tells no size is ignored. Pure."""
    texts = (labels(node).get(label) or "" for node in nodes)
    read = _of_product if label in PRODUCT_LABELS else _of_mebibytes
    return tuple(sorted({size for text in texts if (size := read(text))}))


def _of_mebibytes(text: str) -> int:
    return int(text) << 20 if text.isdecimal() else 0


def _of_product(name: str) -> int:
    """The size of a product in its name, such as NVIDIA-H100-80GB-HBM3; of a slice that of the slice, which is last."""
    if sizes := re.findall(r"(\d+)gb", name.lower()):
        return int(sizes[-1]) * 10**9
    words = re.split(r"[-_. ]", name.lower())
    return next((_PRODUCTS[word] * 10**9 for word in words if word in _PRODUCTS), 0)

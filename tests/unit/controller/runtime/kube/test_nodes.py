"""Nodes are asked for their GPUs' memory by label, seldom, and their silence is no number."""

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from driftloop.controller.runtime.kube.api import Api, ApiError
from driftloop.controller.runtime.kube.nodes import GPU_MEMORY, KEPT_SECONDS, Nodes, memories


def node(label: str | None) -> dict[str, Any]:
    return {"metadata": {"name": "n", "labels": {} if label is None else {GPU_MEMORY: label}}}


class Server:
    """Answers a list of nodes, or fails."""

    def __init__(self, *answers: list[dict[str, Any]] | ApiError) -> None:
        self.answers = list(answers)
        self.selectors: list[str | None] = []

    async def pages(
        self, resource: object, namespace: str | None, selector: str | None = None
    ) -> AsyncIterator[tuple[list[dict[str, Any]], str]]:
        self.selectors.append(selector)
        answer = self.answers.pop(0)
        if isinstance(answer, ApiError):
            raise answer
        yield answer, "1"


def test_sizes_rise_and_come_once_and_what_is_no_number_says_nothing() -> None:
    labels = ["81559", "24576", "81559", "", "much", None, "0"]
    assert memories([node(label) for label in labels]) == (24576 << 20, 81559 << 20)


@pytest.mark.parametrize(
    ("product", "gigabytes"),
    [
        ("NVIDIA-H100-80GB-HBM3", 80),
        ("NVIDIA-A100-SXM4-80GB-MIG-3g.40gb", 40),
        ("Tesla-T4", 16),
        ("NVIDIA-L40S-SHARED", 48),
        ("nvidia-tesla-a100", 40),
        ("nvidia-h200-141gb", 141),
        ("nvidia-l4", 24),
    ],
)
def test_a_products_name_tells_its_memory(product: str, gigabytes: int) -> None:
    found = {"metadata": {"labels": {"nvidia.com/gpu.product": product}}}
    assert memories([found], "nvidia.com/gpu.product") == (gigabytes * 10**9,)


def test_an_unknown_product_has_no_size() -> None:
    found = {"metadata": {"labels": {"nvidia.com/gpu.product": "NVIDIA-X9"}}}
    assert memories([found], "nvidia.com/gpu.product") == ()


async def test_without_the_label_of_the_memory_those_of_clouds_are_read() -> None:
    gke = {"metadata": {"labels": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}}}
    server = Server([], [], [], [gke])
    assert await Nodes(cast(Api, server), lambda: 0.0).gpu_memory({"pool": "h100"}) == (80 * 10**9,)
    assert server.selectors[-1] == "cloud.google.com/gke-accelerator,pool=h100"
    karpenter = {"metadata": {"labels": {"karpenter.k8s.aws/instance-gpu-memory": "81559"}}}
    server = Server([], [karpenter])
    assert await Nodes(cast(Api, server), lambda: 0.0).gpu_memory({}) == (81559 << 20,)


async def test_the_nodes_that_may_take_the_pods_are_asked_once_a_minute() -> None:
    time = 100.0
    server = Server([node("81559")], [node("24576")], [node("81559")])
    nodes = Nodes(cast(Api, server), lambda: time)
    wanted = {"pool": "h100", "arch": "amd64"}
    assert await nodes.gpu_memory(wanted) == (81559 << 20,)
    assert await nodes.gpu_memory(wanted) == (81559 << 20,)
    assert await nodes.gpu_memory({}) == (24576 << 20,)
    assert server.selectors == [f"{GPU_MEMORY},arch=amd64,pool=h100", GPU_MEMORY]
    time += KEPT_SECONDS
    await nodes.gpu_memory(wanted)
    assert len(server.selectors) == 3


async def test_without_the_right_to_read_nodes_nothing_is_known() -> None:
    server = Server(ApiError(403, "Forbidden", "nodes is forbidden"))
    assert await Nodes(cast(Api, server), lambda: 0.0).gpu_memory({}) == ()
    assert await Nodes(None, lambda: 0.0).gpu_memory({}) == ()


async def test_an_api_server_that_fails_wants_retry() -> None:
    server = Server(ApiError(503, "Unavailable", "later"), [node("81559")])
    nodes = Nodes(cast(Api, server), lambda: 0.0)
    with pytest.raises(ApiError):
        await nodes.gpu_memory({})
    assert await nodes.gpu_memory({}) == (81559 << 20,)

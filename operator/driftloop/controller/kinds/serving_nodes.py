"""Read the GPU memory of the nodes that may run serving pods."""

from driftloop.api.base import NVIDIA_GPU, PodOverrides
from driftloop.api.engine import Engine
from driftloop.controller.vocabulary.world import World


async def gpu_memory(engine: Engine, overrides: PodOverrides, world: World) -> tuple[int, ...]:
    """Bytes per GPU on those nodes; empty if unknown, or if the engine needs none or says it (`engine.gpuMemory`)."""
    if not engine.gpus or engine.gpu_memory is not None or engine.gpu_resource != NVIDIA_GPU:
        return ()
    return await world.nodes.gpu_memory(overrides.node_selector)

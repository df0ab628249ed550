"""The process group of the workers, as Ray Train sets it up.

Ray's TorchConfig does the same from a module that imports torch: the driver and Ray Train's controller, which compute
nothing, each spent five seconds of CPU on that at every start of a training.
"""

import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from driftloop_trainer.train.cluster.entry import join, leave
from driftloop_trainer.train.cluster.node import own_address

_LEAVE_TIMEOUT = 5  # seconds; workers that hang are killed anyway


@dataclass(frozen=True)
class ProcessGroup(BackendConfig):
    """`backend`: nccl or gloo. `timeout`: seconds that one collective may take."""

    backend: str
    timeout: int

    @property
    def backend_cls(self) -> type[Backend]:
        """What Ray Train's controller calls, once for each start of the workers."""
        return _Rendezvous


class _Rendezvous(Backend):
    share_cuda_visible_devices = True  # NCCL reaches the GPUs of a node's other workers directly

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers meet at the first one's address."""
        address, port = worker_group.execute_single(0, _meeting_point)
        worker_group.execute(join, backend_config.backend, backend_config.timeout, address, port)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers leave, once all have returned or one has failed."""
        leaving = worker_group.execute_async(leave)
        ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE_TIMEOUT)


def _meeting_point() -> tuple[str, int]:
    """This worker's address and a port that is free now."""
    with socket.create_server((own_address(), 0)) as server:
        address, port = server.getsockname()
        return address, port

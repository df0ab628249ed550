"""The process group of the workers, as Ray Train sets it up.

Ray's TorchConfig does the same, but its module imports torch. That cost the driver and Ray Train's controller, which
do not use torch, five seconds of CPU each at every start of a training.
"""

import socket
from dataclasses import dataclass
from typing import Any

import ray
from ray.train.backend import Backend, BackendConfig

from driftloop_trainer.train.cluster.entry import join, leave
from driftloop_trainer.train.cluster.node import own_address

_LEAVE_TIMEOUT = 5  # seconds; workers that hang are killed after that


@dataclass(frozen=True)
class ProcessGroup(BackendConfig):
    """`backend`: nccl or gloo. `timeout`: seconds that one collective may take."""

    backend: str
    timeout: int

    @property
    def backend_cls(self) -> type[Backend]:
        """The class that Ray Train's controller uses, once per start of the workers."""
        return _Rendezvous


class _Rendezvous(Backend):
    share_cuda_visible_devices = True  # so that NCCL accesses the GPUs of other workers on the node directly

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers connect at the address of the first one."""
        address, port = worker_group.execute_single(0, _meeting_point)
        worker_group.execute(join, backend_config.backend, backend_config.timeout, address, port)

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers leave the group. Ray calls it after all have returned or one has failed."""
        leaving = worker_group.execute_async(leave)
        ray.wait(leaving, num_returns=len(leaving), timeout=_LEAVE_TIMEOUT)


def _meeting_point() -> tuple[str, int]:
    """The address of this worker, and a port that is free now."""
    with socket.create_server((own_address(), 0)) as server:
        address, port = server.getsockname()
        return address, port

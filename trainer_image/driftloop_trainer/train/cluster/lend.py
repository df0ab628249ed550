"""The pods other than index 0: they provide workers to the head until they are stopped.

Ray and torch, which only the workers need, are not imported: that saves seconds at the start of each pod.
"""

import logging
import time
from typing import NoReturn

from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import TrainTask
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.cluster.node import join, wait_for_head

log = logging.getLogger(__name__)

_SETTLED = 60  # seconds; Ray stops earlier if the head does not answer, so a node that ran this long had joined
_HEAD_PAUSE = 5  # seconds during which the port of a dying head may still answer


def lend(task: TrainTask) -> NoReturn:
    """Provide workers to the head, and to its replacement when it is lost. Only index 0 completes the Job.

    A head that has finished looks like a lost one. In that case the Job ends this pod while it waits.
    """
    deadline, lost = time.monotonic() + task.startup_timeout_seconds, 0
    while lost <= task.backoff_limit:
        wait_for_head(task.head, deadline)
        joined = time.monotonic()
        code = join(task.head, task.workers_per_node, task.gpus_per_node)
        log.info("Ray ended here with %d", code)
        if time.monotonic() - joined > _SETTLED:  # otherwise the head did not run yet, and this is still the same wait
            deadline, lost = time.monotonic() + task.startup_timeout_seconds, lost + 1
        time.sleep(_HEAD_PAUSE)
    raise StageFailure(StageReason.HEAD_GONE, f"lost the head {lost} times", EXIT_RETRY)

"""The pods beside index 0: lend their workers to the head until they are stopped.

Imports neither Ray nor torch, which only the workers need: seconds of every pod's start.
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

_SETTLED = 60  # seconds after which a node had joined: Ray gives up on a head that doesn't answer before
_HEAD_PAUSE = 5  # seconds in which a dying head's port may still answer


def lend(task: TrainTask) -> NoReturn:
    """Give this pod's workers to the head, and to the next one when it is gone: only index 0 completes the job.

    A head that finished looks like one that was lost; then the Job ends this pod while it waits.
    """
    deadline, lost = time.monotonic() + task.startup_timeout_seconds, 0
    while lost <= task.backoff_limit:
        wait_for_head(task.head, deadline)
        joined = time.monotonic()
        code = join(task.head, task.workers_per_node, task.gpus_per_node)
        log.info("Ray ended here with %d", code)
        if time.monotonic() - joined > _SETTLED:  # sooner, the head was not up yet: the same wait goes on
            deadline, lost = time.monotonic() + task.startup_timeout_seconds, lost + 1
        time.sleep(_HEAD_PAUSE)
    raise StageFailure(StageReason.HEAD_GONE, f"lost the head {lost} times", EXIT_RETRY)

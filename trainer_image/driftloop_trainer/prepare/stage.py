"""Runs prepare: gathers the rows, checks the suites, and writes the folder."""

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from driftloop.contract.result import PrepareResult
from driftloop.contract.task import PrepareTask
from driftloop.podlib.heavy import loading
from driftloop_trainer.compiler import check_compiler
from driftloop_trainer.data.requests import load_requests
from driftloop_trainer.disk import disk
from driftloop_trainer.folders import finished
from driftloop_trainer.prepare.gather import gather
from driftloop_trainer.prepare.suites import check_suites
from driftloop_trainer.train.tracking.choice import check_trackers

log = logging.getLogger(__name__)


def prepare(task: PrepareTask) -> PrepareResult:
    """Write the prepared folder to `task.output`. A second run returns the result of the first.

    Raises StageFailure, StorageError or ManifestError.
    """
    with tempfile.TemporaryDirectory(prefix="prepare-", dir=disk()) as name:
        scratch = Path(name)
        if earlier := finished(task.output, PrepareResult, scratch / "earlier"):
            log.info("%s is already complete: nothing to do", task.output)
            return earlier
        check_trackers(task.training)
        check_compiler(task.training)
        gathered = gather(task, scratch, datetime.now(UTC))
        check_suites(task.suites, gathered.held_out, scratch)
        if task.contract is not None:
            load_requests(task.contract, scratch)
        with loading():  # torch takes seconds, so errors in the data are reported first
            from driftloop_trainer.prepare.folder import leave_folder

        return leave_folder(task, gathered, scratch)

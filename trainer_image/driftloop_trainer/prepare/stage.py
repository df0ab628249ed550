"""The stage from end to end: every read and write happens in what this calls, every rule elsewhere."""

import logging
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from driftloop.contract.result import PrepareResult
from driftloop.contract.task import PrepareTask
from driftloop.podlib.heavy import loading
from driftloop_trainer.folders import finished
from driftloop_trainer.prepare.gather import gather
from driftloop_trainer.prepare.suites import check_suites

log = logging.getLogger(__name__)


def prepare(task: PrepareTask) -> PrepareResult:
    """Leave the prepared folder at `task.output` and tell what is in it. Raises StageFailure and its kin."""
    with tempfile.TemporaryDirectory(prefix="prepare-") as name:
        scratch = Path(name)
        earlier = finished(task.output, scratch / "earlier")
        if isinstance(earlier, PrepareResult):
            log.info("%s is already whole: nothing to do", task.output)
            return earlier
        gathered = gather(task, scratch, datetime.now(UTC))
        check_suites(task.suites, gathered.held_out, scratch)
        with loading():  # torch: wrong data is told seconds before it is here
            from driftloop_trainer.prepare.folder import leave_folder

        return leave_folder(task, gathered, scratch)

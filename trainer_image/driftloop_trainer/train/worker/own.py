"""A training of the user's own in one worker: find the function, call it, and publish what it leaves."""

import importlib
import inspect
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import TrainingSpec
from driftloop.contract.reasons import StageReason
from driftloop.contract.task import TrainTask
from driftloop.contract.uris import join
from driftloop.podlib import safety
from driftloop.podlib.ending import StageFailure, bounded
from driftloop.podlib.storage import local_path
from driftloop_trainer.modelfiles import check_model_files
from driftloop_trainer.models import load_tokenizer
from driftloop_trainer.train.assignment import Outcome
from driftloop_trainer.train.base import check_tokenizer
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.shutdown import FOLDER_ENV, at_work
from driftloop_trainer.train.tracking.reporting import reporting
from driftloop_trainer.train.worker.checkpoint import check_owner, from_all_ranks, from_rank_0
from driftloop_trainer.train.worker.export import Export, publish
from driftloop_trainer.train.worker.mesh import device_of_worker
from driftloop_trainer.train.worker.own_context import Context

log = logging.getLogger(__name__)

_BUGS = (AttributeError, ImportError, NameError, SyntaxError, TypeError)  # a new start would only repeat them


class BrokenEntrypoint(StageFailure):
    """A bug in a training of the user's own. One rank may raise it alone: Ray ends the others."""

    def __init__(self, message: str) -> None:
        super().__init__(StageReason.BAD_ENTRYPOINT, message)
        self.args = (message,)  # pickle rebuilds an exception from these


def train_own(task: TrainTask, run: Run, report: Callable[[Progress], None], scratch: Path) -> Outcome:
    """Call `training.entrypoint` as one of the ranks. Returns the Outcome; only that of rank 0 counts.

    What the function raises is raised: Ray starts the workers again, and the function resumes. The exception are
    errors that every start would repeat, such as a wrong argument: see BrokenEntrypoint.
    """
    try:
        train = _agreed(task.training)
        with reporting() as track, at_work(Path(os.environ.get(FOLDER_ENV, scratch))) as worker:
            context = Context(task, run, device_of_worker(), worker, report, track)
            _call(train, context)
            trained = context.trained()
            check_owner(run)
        uri = join(task.output, run.token)
        facts = {"final loss": f"{trained.loss:.4f}"}
        plan = Export(task, context.model, context.data, facts, uri, context.curve)
        digest = from_rank_0(lambda: _publish(context.output, plan))
    except BrokenEntrypoint:
        raise
    except StageFailure as failure:  # all ranks raise it
        return Outcome(failure=failure)
    return Outcome(
        uri=uri,
        digest=digest,
        loss=trained.loss,
        tokens_per_second=trained.tokens_per_second,
        seconds=trained.seconds,
        peak_memory=trained.peak_memory,
        first_step=context.begun.step,
        restarts=context.restarts,
        steps=trained.end.step,
        exported_step=trained.end.step,
    )


def _call(train: Callable[[Context], Any], context: Context) -> None:
    try:
        train(context)
    except _BUGS as error:
        log.exception("%s has a bug", context.training.entrypoint)
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}, line {place.lineno}"
        message = f"{context.training.entrypoint} has a bug: {type(error).__name__}: {error} ({where})"
        raise BrokenEntrypoint(bounded(message)) from error


def _agreed(training: TrainingSpec) -> Callable[[Context], Any]:
    """The function of the entrypoint; every rank calls it. Raises BadEntrypoint on every rank."""
    problem: list[str] = []
    try:
        train = function_of(training)
    except StageFailure as failure:
        problem = [failure.message]
    if problems := from_all_ranks(problem):
        raise StageFailure(StageReason.BAD_ENTRYPOINT, problems[0])
    return train


def function_of(training: TrainingSpec) -> Callable[[Context], Any]:
    """The function that `training.entrypoint` names, in the image or below `training.code`. Raises StageFailure."""
    name = training.entrypoint or ""
    if training.code is not None:
        sys.path.insert(0, str(local_path(training.code)))
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
        inspect.signature(function).bind("context")
    except Exception as error:  # a module of the user's may raise anything when it is imported
        place = f"{training.code} or the image" if training.code else "the image"
        cause = f"{type(error).__name__}: {error}"
        message = f"training.entrypoint: {name} from {place} can't be called with a Context: {cause}"
        raise StageFailure(StageReason.BAD_ENTRYPOINT, bounded(message)) from error
    return function  # type: ignore[no-any-return]


def _publish(folder: Path, plan: Export) -> str:
    """Check the model that the function left, complete its folder, and publish it. Raises StageFailure."""
    for path in list(safety.pickled(folder)):
        log.warning("%s is left out: no pickle is served", path.name)
        path.unlink()
    name = plan.task.training.entrypoint
    try:
        check_model_files(folder, "context.output")
    except StageFailure as failure:
        message = f"{name} left no model that can be served: {failure.message}"
        raise StageFailure(StageReason.BAD_ENTRYPOINT, message) from failure
    check_tokenizer(plan.base, plan.task)
    tokenizer = load_tokenizer(plan.base, plan.task.model.uri or "model")
    if not (folder / "tokenizer_config.json").exists():
        tokenizer.save_pretrained(folder)
    return publish(folder, plan, tokenizer.eos_token_id)

"""The driver in the pod with index 0."""

import logging
import subprocess
import tempfile
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.exceptions import TrainingFailedError

from driftloop.contract.manifest import ManifestEntry
from driftloop.contract.names import EXIT_RETRY
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import TrainResult, ValidationResult
from driftloop.contract.task import TrainTask
from driftloop.contract.uris import is_pinned, repository
from driftloop.podlib.adapters import base_files, verify_bases
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.folders import finished, record_once, verify_weights
from driftloop_trainer.modelfiles import check_model_files
from driftloop_trainer.train.assignment import ASSIGNMENT, Assignment, Outcome
from driftloop_trainer.train.base import made_manifest, open_base
from driftloop_trainer.train.cluster.board import start_board
from driftloop_trainer.train.cluster.entry import take_up
from driftloop_trainer.train.cluster.node import await_head
from driftloop_trainer.train.cluster.processgroup import ProcessGroup
from driftloop_trainer.train.cluster.shortage import shortage
from driftloop_trainer.train.cluster.size import Size, wait_until_noticed
from driftloop_trainer.train.cluster.trainer import Trainer
from driftloop_trainer.train.localdata import local_data
from driftloop_trainer.train.run import Run
from driftloop_trainer.train.shutdown import ask_for_resize, forget_resize, stop_on_sigterm

log = logging.getLogger(__name__)

# Seconds that one collective may take before the workers are restarted. Longer than what a step may take
# (worker/watchdog.py), as a rank that ends by this timeout logs no stacks.
_EXCHANGE_TIMEOUT = 1800
_BASE = "base model"  # what a run records by this name


def lead(task: TrainTask, head: subprocess.Popen[bytes]) -> TrainResult:
    """Train on all pods and write the model to `task.output`. `head`: the command that starts Ray in this pod.

    Raises StageFailure, StorageError or ManifestError.
    """
    with tempfile.TemporaryDirectory(prefix="driver-") as name:
        scratch = Path(name)
        if earlier := finished(task.output, TrainResult, scratch / "earlier"):
            log.info("%s is already complete: nothing to do", task.output)
            return earlier
        files = check_inputs(task, scratch)
        return _train(task, head, name, files)


def check_inputs(task: TrainTask, scratch: Path) -> tuple[ManifestEntry, ...]:
    """Find wrong input once, before any worker starts, because Ray restarts workers that fail.

    Returns the base model's files with its weights, if the adapter is exported alone. Raises StageFailure, StorageError
    or ManifestError.
    """
    if task.model.uri is None:
        raise StageFailure(
            StageReason.BAD_TASK, "model.uri: training starts from a folder; prepare makes one for a new model"
        )
    base = open_base(task, scratch / "base")
    check_model_files(base, task.model.uri, task.model.bases)
    verify_weights(task.model.uri, base, made_manifest(task))
    verify_bases(task.model.uri, task.model.bases)
    local_data(task.data_uri, task.data_digest)
    return () if task.merge_adapter else tuple(base_files(task.model.uri, task.model.bases, base))


def check_resumed(task: TrainTask, run: Run) -> None:
    """Check that this job can resume from the checkpoint of another one, if it has none of its own.

    Raises StageFailure.
    """
    if task.resume_from is None or run.complete_checkpoints():
        return
    other = Run(task.resume_from, run.token)
    checkpoints, trained, wanted = other.complete_checkpoints(), other.trained(), trained_weights(task)
    if not checkpoints or trained is None:
        problem = "the job of resumeFrom left no checkpoint: remove resumeFrom"
    elif differing := [name for name in wanted if not _is_same(trained.get(name), wanted[name], task)]:
        problem = f"the job of resumeFrom trained another {' and '.join(differing)}: use the same, or remove resumeFrom"
        if _BASE in differing:
            problem += f" (its {_BASE} was {trained.get(_BASE)})"
    elif checkpoints[0].step > task.total_steps:
        problem = (
            f"the last checkpoint of the job of resumeFrom is of step {checkpoints[0].step}, but this job has only "
            f"{task.total_steps} steps: raise training.numTrainEpochs or maxSteps"
        )
    else:
        return
    raise StageFailure(StageReason.CHECKPOINT_MISMATCH, problem)


def trained_weights(task: TrainTask) -> dict[str, Any]:
    """What two jobs have in common if one may resume from a checkpoint of the other: by the words of a message."""
    return {
        _BASE: task.model.digest or task.model.content or task.model.uri,
        "tokenizer": task.lineage.tokenizer_digest,
        "adapter": task.training.adapter.dump(),
    }


def _is_same(trained: Any, wanted: Any, task: TrainTask) -> bool:
    """Whether a recorded value is the wanted one.

    Earlier releases recorded a branch of the Hub, and not its commit, or the place of a model, and not its content.
    """
    if wanted in (task.model.digest, task.model.content) and trained == task.model.uri:
        return True
    is_branch = isinstance(trained, str) and trained.startswith("hf://") and not is_pinned(trained)
    return bool(trained == wanted or (is_branch and repository(trained) == repository(str(wanted))))


def _train(
    task: TrainTask, head: subprocess.Popen[bytes], scratch: str, files: tuple[ManifestEntry, ...]
) -> TrainResult:
    begun = time.monotonic()
    ray.init(address=await_head(head))
    stop_on_sigterm(
        task.grace_period_seconds
    )  # ray.init has replaced the handler: https://github.com/ray-project/ray/issues/17308
    size = Size(task.elastic.min_nodes if task.elastic else task.nodes, task.nodes, _alive)
    run = Run(task.runs, f"{task.attempt:04d}-{uuid.uuid4().hex[:8]}")
    first = task.startup_timeout_seconds - (time.monotonic() - begun)
    patience = task.elastic.wait_seconds if task.elastic and run.has_started() else first
    nodes = size.wait(task.nodes, patience, first)
    run.take_over()
    check_resumed(task, run)
    run.describe(trained_weights(task))
    assignment = Assignment(task, run.token, start_board(task.total_steps), files)
    if task.elastic is None:
        result = to_result(task, _fit(assignment, scratch, task.backoff_limit))
    else:
        result = _fit_elastic(assignment, scratch, size, nodes)
    return settle(task, run, result)


def _fit_elastic(assignment: Assignment, scratch: str, size: Size, nodes: int) -> TrainResult:
    """Train on as many nodes as there are: on fewer after one was lost, and on more once there are more.

    Each change is another start of all workers, from the last checkpoint. A lost node counts as a failure of Ray's,
    of which there may be `backoffLimit`.
    """
    task, failures = assignment.task, 0
    assert task.elastic is not None
    while True:
        present = task.model_copy(update={"nodes": nodes})
        assignment.board.show_nodes.remote(nodes)
        forget_resize()
        try:
            with size.watching(nodes, ask_for_resize):
                outcome = _fit(replace(assignment, task=present), scratch, failures_of_ray=0)
        except TrainingFailedError:
            failures += 1
            if failures > task.backoff_limit:
                raise
            log.warning("the workers have failed %d times, at most %d are accepted", failures, task.backoff_limit)
            wait_until_noticed()
        else:
            if not outcome.resized:
                return to_result(present, outcome)
        nodes = size.wait(nodes, task.elastic.wait_seconds, task.startup_timeout_seconds)


def settle(task: TrainTask, run: Run, result: TrainResult) -> TrainResult:
    """Record the trained model, delete the checkpoints, and return the result that counts.

    A driver that was cut off may train to the end at the same time as its replacement. The first of them to record its
    result has trained the model, and both report that result to the operator. Raises Superseded.
    """
    run.check_owner()
    counted = record_once(task.output, result)
    run.clear()
    return counted


def _alive() -> int:
    return sum(bool(node["Alive"]) for node in ray.nodes())  # type: ignore[no-untyped-call]


def _fit(assignment: Assignment, scratch: str, failures_of_ray: int) -> Outcome:
    """Train on `task.nodes` nodes. Ray starts the workers again after up to `failures_of_ray` failures."""
    task = assignment.task
    gpus = task.gpus_per_node > 0
    trainer = Trainer(
        take_up,
        train_loop_config={ASSIGNMENT: assignment},
        scaling_config=ScalingConfig(num_workers=task.nodes * task.workers_per_node, use_gpu=gpus),
        backend_config=ProcessGroup("nccl" if gpus else "gloo", _EXCHANGE_TIMEOUT),
        # Checkpoints and resuming are not left to Ray, so Ray needs no shared storage.
        run_config=RunConfig(
            name=f"{task.job_uid}-{uuid.uuid4().hex[:8]}",
            storage_path=scratch,
            failure_config=FailureConfig(max_failures=failures_of_ray),
        ),
    )
    try:
        outcome = trainer.fit().return_value  # type: ignore[attr-defined]  # its type is version 1's
    except (TrainingFailedError, OutOfMemoryError) as error:
        raise shortage(error) or error from error
    if not isinstance(outcome, Outcome):
        raise StageFailure(StageReason.UNEXPECTED, "training ended without an outcome", EXIT_RETRY)
    return outcome


def to_result(task: TrainTask, outcome: Outcome) -> TrainResult:
    """The result for the operator. Raises the StageFailure of the outcome."""
    if outcome.failure is not None:
        raise outcome.failure
    return TrainResult(
        uri=outcome.uri,
        digest=outcome.digest,
        steps=outcome.steps,
        total_steps=task.total_steps,
        validation=_validation(outcome),
        loss=round(outcome.loss, 6),
        reward={kind: round(value, 6) for kind, value in outcome.reward.items()},
        tokens_per_second=round(outcome.tokens_per_second, 1),
        mfu=None if outcome.mfu is None else round(outcome.mfu, 4),
        world_size=task.nodes * task.workers_per_node,
        nodes=task.nodes,
        seconds=round(outcome.seconds, 1),
        peak_memory_bytes_per_worker=outcome.peak_memory,
        resumed_from_step=outcome.first_step,
        restarts=outcome.restarts,
        skipped_steps=outcome.skipped,
    )


def _validation(outcome: Outcome) -> ValidationResult | None:
    known = outcome.validated
    if not known.step:
        return None
    return ValidationResult(
        loss=known.loss, best_loss=known.best_loss, best_step=known.best_step, exported_step=outcome.exported_step
    )

"""An evaluation as the operator runs it, in processes of this machine: ask the baseline, then the candidate, compare.

The tasks are built by the operator's functions, and its gates judge. Other than in a pod, the client asks the engine
directly: the proxy would be reachable from other machines.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import assert_never

from driftloop.api.engine import Engine
from driftloop.api.modelversion import AnchorStatus, BaselineStatus, ModelArtefact, ModelVersionSpec
from driftloop.cli.gating.order import HERE, Order
from driftloop.cli.gating.ports import free_ports
from driftloop.cli.gating.processes import NotJudged, Process, running, wait_for
from driftloop.cli.gating.report import Judged
from driftloop.cli.gating.workspace import CLAIM, Workspace
from driftloop.cli.states import Going
from driftloop.contract.result import AnswerResult, AnyResult, EvaluateResult, PrepareResult, StageError, TrainResult
from driftloop.contract.task import AnswerTask, Baseline, EvaluateTask, EvaluationArm, ServeTask
from driftloop.contract.uris import join
from driftloop.controller.kinds.engines import task_fields
from driftloop.controller.kinds.modelversion import gates, tasks
from driftloop.controller.kinds.modelversion.comparison import NoBaseline, is_compared

NAME = "gate"  # of family, service and namespace in the tasks
CANDIDATE, BASELINE, ANCHOR = "candidate", "baseline", "anchor"
EVIDENCE = join(CLAIM, "evidence")
_ASKED = re.compile(r"(\S+): (\d+)/(\d+) items")

Show = Callable[[Going], None]


@dataclass(frozen=True)
class Models:
    """The model to judge, and those that it is compared with."""

    candidate: ModelArtefact
    baseline: ModelArtefact | None
    anchor: ModelArtefact | None = None


@dataclass(frozen=True)
class Evaluation:
    """An evaluation that is run here."""

    spec: ModelVersionSpec  # the candidate as a version
    models: Models
    looks: dict[str, int]
    anchor_looks: dict[str, int]
    work: Workspace
    show: Show


def evaluation_of(order: Order, models: Models, work: Workspace, show: Show) -> Evaluation:
    """The evaluation of an order."""
    suites = work.suites(order.evaluation.suites, order.items)
    contract = work.contract(order.evaluation.contract, order.requests)
    evaluation = order.evaluation.model_copy(update={"suites": suites, "contract": contract})
    spec = ModelVersionSpec(family=NAME, artefact=models.candidate, evaluation=evaluation)
    names = [suite.name for suite in suites]
    return Evaluation(
        spec, models, dict.fromkeys(names, order.look), dict.fromkeys(names, order.anchor_look), work, show
    )


def judged(evaluation: Evaluation) -> Judged:
    """The verdict about the candidate. Raises NotJudged."""
    spec, models = evaluation.spec, evaluation.models
    baseline, stable, of_anchor = models.baseline, None, None
    if baseline is not None and is_compared(spec.evaluation):
        stable = _answers(evaluation, BASELINE, baseline)
    if models.anchor is not None:
        of_anchor = _answers(evaluation, ANCHOR, models.anchor)
    result = _result(evaluation, tasks.Answers(stable, of_anchor))
    anchored = gates.Anchored(_anchor(models.anchor), evaluation.anchor_looks) if models.anchor else None
    found = gates.judge(spec, result, _compared(baseline), looks=evaluation.looks, anchored=anchored)
    return Judged(tuple(found), gates.verdict(found), gates.summary(found), result.engine)


def _compared(baseline: ModelArtefact | None) -> BaselineStatus | NoBaseline:
    if baseline is None:
        return NoBaseline("no baseline was given")
    return BaselineStatus(version=BASELINE, digest=baseline.digest, service=NAME)


def _anchor(anchor: ModelArtefact) -> AnchorStatus:
    return AnchorStatus(version=ANCHOR, digest=anchor.digest)


def _answers(evaluation: Evaluation, version: str, artefact: ModelArtefact) -> AnswerResult:
    asks = tasks.anchor_task if version == ANCHOR else tasks.answer_task
    with _served(evaluation, version, artefact) as (arm, engine):
        task = asks(evaluation.spec, arm, join(CLAIM, "answers", version))
        found = _asked(evaluation, version, task, engine)
    match found:
        case AnswerResult():
            return found
        case PrepareResult() | TrainResult() | EvaluateResult() | StageError() | None:
            raise NotJudged(f"{version}: the evaluation reported no answers")
        case never:
            assert_never(never)


def _baseline(baseline: ModelArtefact | None, answers: AnswerResult | None) -> Baseline | None:
    match _compared(baseline):
        case BaselineStatus() as stable:
            return tasks.compared(stable, answers)
        case NoBaseline():
            return None
        case never:
            assert_never(never)


def _result(evaluation: Evaluation, answers: tasks.Answers) -> EvaluateResult:
    spec, models = evaluation.spec, evaluation.models
    baseline = _baseline(models.baseline, answers.stable)
    with _served(evaluation, CANDIDATE, spec.artefact) as (arm, engine):
        task = tasks.evaluate_task(spec, arm, baseline, evaluation.looks, EVIDENCE)
        if models.anchor:
            anchor = tasks.compared(_anchor(models.anchor), answers.anchor)
            task = tasks.with_anchor(task, anchor, evaluation.anchor_looks)
        found = _asked(evaluation, CANDIDATE, task, engine)
    match found:
        case EvaluateResult():
            return found
        case PrepareResult() | TrainResult() | AnswerResult() | StageError() | None:
            raise NotJudged(f"{CANDIDATE}: the evaluation reported no result")
        case never:
            assert_never(never)


def _asked(evaluation: Evaluation, version: str, task: AnswerTask | EvaluateTask, engine: Process) -> AnyResult | None:
    """What the client of the served model reports."""
    work = evaluation.work

    def listen(line: str) -> None:
        if found := _ASKED.fullmatch(line):
            suite, done, total = found.group(1), int(found.group(2)), int(found.group(3))
            evaluation.show(Going(f"{version}: suite {suite}: {done} of {total} items", 100 * done // max(1, total)))

    evaluation.show(Going(f"{version}: the engine loads the model"))
    name, folder = f"{version}: the evaluation", work.folder / version / "client"
    with running(name, "driftloop_trainer.evaluate", task, folder, work.volumes, listen) as client:
        wait_for(client, evaluation.spec.evaluation.active_deadline_seconds, [engine])
        return client.result


@contextmanager
def _served(evaluation: Evaluation, version: str, artefact: ModelArtefact) -> Iterator[tuple[EvaluationArm, Process]]:
    """The model in an engine of its own: its folder is verified and copied, as in a pod."""
    work = evaluation.work
    task = _serve_task(evaluation, version, artefact)
    evaluation.show(Going(f"{version}: its files are verified and copied"))
    try:
        folder, seconds = work.folder / version, evaluation.spec.evaluation.startup_timeout_seconds
        with running(f"{version}: the copy", "driftloop_server.fetch", task, folder / "copy", work.volumes) as copy:
            wait_for(copy, seconds)
        url = f"http://127.0.0.1:{task.engine_port}"
        arm = EvaluationArm(version=version, digest=artefact.digest, url=url, ready_url=f"{url}/health")
        name = f"{version}: the engine"
        with running(name, "driftloop_server.engine", task, folder / "engine", work.volumes) as engine:
            yield arm, engine
    finally:
        work.forget_served()


def _serve_task(evaluation: Evaluation, version: str, artefact: ModelArtefact) -> ServeTask:
    engine_port, unused = free_ports(2)
    return ServeTask(
        namespace=NAME,
        service=NAME,
        service_uid=NAME,
        family=NAME,
        version=version,
        revision="evaluation",
        artefact_uri=artefact.uri,
        artefact_digest=artefact.digest,
        model_dir=str(evaluation.work.served),
        engine_port=engine_port,
        metrics_port=unused,  # a stopping engine waits until nobody listens there
        **task_fields(evaluation.spec.evaluation.engine or Engine(), HERE),
    )

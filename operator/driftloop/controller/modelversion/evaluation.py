"""The evaluation of a version: the task of its client, and of what serves the arms. Pure."""

from pydantic import ValidationError

from driftloop.api.base import Digest
from driftloop.api.engine import Engine
from driftloop.api.modelversion import Artefact, BaselineStatus
from driftloop.contract.names import (
    API_PORT,
    BASELINE_OFFSET,
    ENGINE_PORT,
    FEEDBACK_PORT,
    METRICS_PORT,
    SERVICE,
)
from driftloop.contract.storage import join
from driftloop.contract.task import EvaluateTask, EvaluationArm, ServeTask
from driftloop.controller.core import Obj, Settings
from driftloop.controller.modelversion.baseline import Baseline, NoBaseline, digest_of
from driftloop.controller.modelversion.observed import Observed
from driftloop.controller.pods import jobs

# On the evaluate Job: why there is nothing to compare with.
NO_BASELINE = "driftloop.dev/no-baseline"


def evaluate_job(observed: Observed, against: Baseline | NoBaseline, engine: Engine, settings: Settings) -> Obj:
    """The Job that asks the version, and its baseline, every item. Raises TaskTooLarge."""
    spec = observed.spec
    arms = [_serve(observed, observed.name, observed.uid, spec.artefact, engine, 0)]
    if isinstance(against, Baseline):
        arms.append(_serve(observed, against.status.version, observed.uid, against.artefact, engine, BASELINE_OFFSET))
    task = EvaluateTask(
        family=spec.family,
        candidate=_arm(arms[0]),
        baseline=_arm(arms[1]) if len(arms) > 1 else None,
        suites=spec.evaluation.suites,
        output=join(storage_of(observed), observed.uid, _against(digest_of(against))),
    )
    notes = {SERVICE: against.status.service} if isinstance(against, Baseline) else {NO_BASELINE: against.why}
    return jobs.evaluate_job(
        observed.version,
        task,
        arms,
        engine=engine,
        overrides=spec.pod_overrides,
        settings=settings,
        annotations=notes,
    )


def storage_of(observed: Observed) -> str:
    """The folder for evidence: the one that the spec gives, else one beside the artefact."""
    if observed.spec.evaluation.storage:
        return observed.spec.evaluation.storage
    parent = observed.spec.artefact.uri.rstrip("/").rpartition("/")[0]
    # An artefact that is a whole claim or bucket has nothing beside it; its manifest doesn't cover what comes later.
    return join(observed.spec.artefact.uri if parent.endswith("/") else parent, "evaluations")


def compared_with(job: Obj) -> BaselineStatus | None:
    """The baseline that an evaluate Job was created with."""
    task = jobs.task_of(job)
    if not isinstance(task, EvaluateTask) or task.baseline is None:
        return None
    service = (job["metadata"].get("annotations") or {}).get(SERVICE)
    try:
        return BaselineStatus.model_validate(
            {"version": task.baseline.version, "digest": task.baseline.digest, "service": service}
        )
    except ValidationError:
        return None  # somebody took the annotation; the digest gate then finds a comparison with the wrong thing


def why_no_baseline(job: Obj) -> str:
    """Why an evaluate Job compares with nothing."""
    found = (job["metadata"].get("annotations") or {}).get(NO_BASELINE)
    return str(found) if found else "the family had no stable version"


def _against(digest: Digest | None) -> str:
    return digest.removeprefix("sha256:")[:8] if digest else "none"


def _serve(observed: Observed, version: str, uid: str, artefact: Artefact, engine: Engine, offset: int) -> ServeTask:
    """What serves one arm: as an InferenceService would, but it takes no feedback."""
    return ServeTask(
        namespace=observed.namespace,
        service=observed.spec.family,
        service_uid=uid,
        family=observed.spec.family,
        version=version,
        revision="evaluation",
        artefact_uri=artefact.uri,
        artefact_digest=artefact.digest,
        engine_type=engine.type,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        dtype=engine.dtype,
        engine_port=ENGINE_PORT + offset,
        api_port=API_PORT + offset,
        feedback_port=FEEDBACK_PORT + offset,
        metrics_port=METRICS_PORT + offset,
    )


def _arm(task: ServeTask) -> EvaluationArm:
    return EvaluationArm(
        version=task.version,
        digest=task.artefact_digest,
        url=f"http://127.0.0.1:{task.api_port}",
        ready_url=f"http://127.0.0.1:{task.metrics_port}/readyz",
    )

"""The evaluation of a version: its Jobs, with the tasks of their clients and of what they ask. Pure."""

import hashlib
import json
from typing import Any

from pydantic import ValidationError

from driftloop.api.engine import Engine
from driftloop.api.modelversion import Artefact, BaselineStatus
from driftloop.contract import task as tasks
from driftloop.contract.result import AnswerResult
from driftloop.contract.task import AnswerTask, EvaluateTask, EvaluationArm, ServeTask
from driftloop.contract.uris import join
from driftloop.controller.kinds.modelversion.baseline import Baseline, NoBaseline, digest_of
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.pods import jobs
from driftloop.controller.vocabulary.labels import ENGINE, NO_BASELINE, RETRY, SERVICE
from driftloop.controller.vocabulary.plan import Obj, Settings

# Annotations of the evaluate Job: why there is nothing to compare with.
ATTEMPTS = 3  # at an evaluation whose only doubt is the API's


def evaluation_key(observed: Observed, against: Baseline | NoBaseline, engine: Engine) -> str:
    """Eight hex digits for what an evaluation is about: the baseline, the engine, and the retry that asks for it."""
    return _hash(digest_of(against), engine_hash(engine), observed.annotations.get(RETRY))


def evaluation_names(observed: Observed, against: Baseline | NoBaseline, engine: Engine) -> list[str]:
    """Names of the evaluate Jobs, of one attempt after the other."""
    key = evaluation_key(observed, against, engine)
    return [jobs.evaluate_name(observed.version, key, attempt) for attempt in range(1, ATTEMPTS + 1)]


def answer_job_name(observed: Observed, against: Baseline, engine: Engine) -> str:
    """Name of the Job that asks the stable version: the same for every attempt."""
    return jobs.answer_name(observed.version, _answers_key(against, engine))


def answer_job(observed: Observed, against: Baseline, engine: Engine, settings: Settings) -> Obj:
    """The Job that asks the stable version the items of the suites that compare. Raises TaskTooLarge."""
    arm = _serve(observed, against.status.version, against.artefact, engine)
    task = AnswerTask(
        family=observed.spec.family,
        arm=_arm(arm),
        suites=[suite for suite in observed.spec.evaluation.suites if suite.kind != "floor"],
        output=join(_folder(observed), f"baseline-{_answers_key(against, engine)}"),
        **_asked(observed),
    )
    return jobs.evaluate_job(
        observed.version,
        answer_job_name(observed, against, engine),
        task,
        _asking(observed, arm, engine, settings),
        {SERVICE: against.status.service},
    )


def evaluate_job(
    observed: Observed,
    against: Baseline | NoBaseline,
    answers: AnswerResult | None,
    engine: Engine,
    attempt: int,
    settings: Settings,
) -> Obj:
    """The Job that asks the version every item, and compares it with the stable one's answers. Raises TaskTooLarge."""
    arm = _serve(observed, observed.name, observed.spec.artefact, engine)
    key = evaluation_key(observed, against, engine)
    name = jobs.evaluate_name(observed.version, key, attempt)
    task = EvaluateTask(
        family=observed.spec.family,
        candidate=_arm(arm),
        baseline=_baseline(against, answers) if isinstance(against, Baseline) else None,
        suites=observed.spec.evaluation.suites,
        output=join(_folder(observed), key if attempt == 1 else f"{key}-{attempt}"),
        **_asked(observed),
    )
    notes = {SERVICE: against.status.service} if isinstance(against, Baseline) else {NO_BASELINE: against.why}
    notes[ENGINE] = engine_hash(engine)
    return jobs.evaluate_job(observed.version, name, task, _asking(observed, arm, engine, settings), notes)


def engine_hash(engine: Engine) -> str:
    """Eight hex digits for all of an engine that may change an answer."""
    return _hash(engine.model_dump_json(exclude={"resources"}))


def engine_of_evidence(job: Obj) -> str | None:
    """The hash of the engine that an evaluate Job was created with."""
    found = (job["metadata"].get("annotations") or {}).get(ENGINE)
    return found if isinstance(found, str) else None


def running_on(observed: Observed, engine: Engine) -> str:
    """For people: on what the version is asked, and who said so."""
    gpus = f"{engine.gpus} GPU{'s' if engine.gpus > 1 else ''}" if engine.gpus else "no GPU"
    told = observed.spec.evaluation.engine is not None or bool(observed.services)
    guessed = "" if told else "; no InferenceService follows the family: evaluation.engine says another one"
    return f"engine {engine.type}, {gpus}{guessed}"


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


def _baseline(against: Baseline, answers: AnswerResult | None) -> tasks.Baseline:
    return tasks.Baseline(
        version=against.status.version,
        digest=against.status.digest,
        answers=answers.uri if answers else None,
        answers_digest=answers.digest if answers else None,
    )


def _folder(observed: Observed) -> str:
    return join(storage_of(observed), observed.uid)


def _answers_key(against: Baseline, engine: Engine) -> str:
    return _hash(against.status.digest, engine_hash(engine))


def _hash(*parts: str | None) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:8]


def _asked(observed: Observed) -> dict[str, Any]:
    settings = observed.spec.evaluation
    return {
        "max_tokens": settings.max_tokens,
        "concurrency": settings.concurrency,
        "startup_timeout_seconds": settings.startup_timeout_seconds,
    }


def _asking(observed: Observed, arm: ServeTask, engine: Engine, settings: Settings) -> jobs.Asking:
    return jobs.Asking(arm, engine, observed.spec.evaluation, observed.spec.pod_overrides, settings)


def _serve(observed: Observed, version: str, artefact: Artefact, engine: Engine) -> ServeTask:
    """What serves one version: as an InferenceService would, but it takes no feedback."""
    return ServeTask(
        namespace=observed.namespace,
        service=observed.spec.family,
        service_uid=observed.uid,
        family=observed.spec.family,
        version=version,
        revision="evaluation",
        artefact_uri=artefact.uri,
        artefact_digest=artefact.digest,
        engine_type=engine.type,
        max_model_len=engine.max_model_len,
        max_num_seqs=engine.max_num_seqs,
        dtype=engine.dtype,
    )


def _arm(served: ServeTask) -> EvaluationArm:
    return EvaluationArm(
        version=served.version,
        digest=served.artefact_digest,
        url=f"http://127.0.0.1:{served.api_port}",
        ready_url=f"http://127.0.0.1:{served.metrics_port}/readyz",
    )

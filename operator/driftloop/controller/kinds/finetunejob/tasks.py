"""The documents that a job's pods get, and the ModelVersion that comes of them. Pure."""

import json
from typing import Any

from pydantic import ValidationError

from driftloop.api.base import API_VERSION, SuiteSpec
from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.api.modelversion import Artefact, Lineage, ModelVersionSpec, Trigger, VersionEvaluation
from driftloop.contract.result import PrepareResult, TrainResult
from driftloop.contract.task import ModelSource, PrepareTask, TrainTask
from driftloop.contract.uris import join
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, resolved
from driftloop.controller.kinds.finetunejob.start import Start
from driftloop.controller.pods import jobs
from driftloop.controller.vocabulary.labels import DRAFT, FAMILY, JOB, TRIGGER, VERSION
from driftloop.controller.vocabulary.naming import version_name
from driftloop.controller.vocabulary.plan import Obj, Settings

# On the train Job: the ModelVersion's spec but for the artefact, so that the last step needs nothing that may be gone.


class InvalidResult(ValueError):
    """A stage result that the next stage can't use."""


def prepare_task(observed: Observed, start: Start) -> PrepareTask:
    """Clean, divide and tokenise the data of the job."""
    spec = observed.spec
    return PrepareTask(
        job=observed.name,
        job_uid=observed.uid,
        family=spec.output.family,
        held_out_salt=start.held_out.salt,
        model=start.model,
        data=spec.data.model_copy(update={"held_out_percent": start.held_out.percent}),
        feedback=start.feedback,
        training=spec.training,
        suites=tuple(_bounded(suite, spec) for suite in spec.evaluation.suites),
        storage=spec.storage,
        output=join(spec.storage, "prepared", observed.uid),
    )


def train_task(
    observed: Observed,
    settings: Settings,
    attempt: int,
    prepared: PrepareTask,
    data: PrepareResult,
    plan: TrainingPlan,
    lineage: Lineage,
) -> TrainTask:
    """Train on what prepare left, the way the plan says."""
    spec = observed.spec
    return TrainTask(
        job=observed.name,
        job_uid=observed.uid,
        family=spec.output.family,
        model=base_model(prepared, data),
        data_uri=data.uri,
        data_digest=data.digest,
        training=resolved(spec),
        nodes=spec.compute.nodes,
        workers_per_node=plan.workers_per_node,
        gpus_per_node=spec.compute.gpus_per_node,
        gradient_accumulation_steps=plan.status.gradient_accumulation_steps,
        per_device_train_batch_size=plan.per_device_train_batch_size,
        total_steps=plan.status.total_steps,
        head=jobs.head_name(observed.job, attempt, settings),
        startup_timeout_seconds=spec.compute.startup_timeout_seconds,
        backoff_limit=spec.compute.backoff_limit,
        attempt=attempt,
        runs=join(spec.storage, "runs", observed.uid),
        output=join(spec.storage, "versions", observed.uid),
        lineage=lineage,
    )


def base_model(prepared: PrepareTask, data: PrepareResult) -> ModelSource:
    """The model that training starts from: what prepare was told, or what it made or resolved of it."""
    return ModelSource(
        uri=data.model_uri or prepared.model.uri,
        digest=data.model_digest or prepared.model.digest,
    )


def lineage(
    observed: Observed, prepared: PrepareTask, data: PrepareResult, parent: str | None, trainer_image: str
) -> Lineage:
    """Where the version will come from. Raises InvalidResult."""
    try:
        return Lineage(
            job=observed.name,
            job_uid=observed.uid,
            parent=parent,
            base_digest=base_model(prepared, data).digest,
            data_uri=data.uri,
            data_digest=data.digest,
            held_out_salt=prepared.held_out_salt or prepared.family,
            held_out_percent=prepared.data.held_out_percent,
            tokenizer_digest=data.tokenizer_digest,
            trainer_image=trainer_image,
            trigger=_trigger(observed.job),
        )
    except ValidationError as error:
        raise InvalidResult(_first(error)) from error


def draft(spec: FineTuneJobSpec, origin: Lineage, data: PrepareResult) -> str:
    """The spec of the ModelVersion but for the artefact, as JSON. Raises InvalidResult when a suite has no items."""
    try:
        asked = spec.evaluation.model_dump(exclude={"suites"})
        asked["queue_name"] = spec.evaluation.queue_name or spec.compute.queue_name
        evaluation = VersionEvaluation(
            **asked,
            suites=[_resolved(suite, data) for suite in spec.evaluation.suites],
            storage=join(spec.storage, "evaluations"),
        )
    except ValidationError as error:
        raise InvalidResult(_first(error)) from error
    document = {
        "family": spec.output.family,
        "lineage": origin.dump(),
        "evaluation": evaluation.dump(),
        "podOverrides": spec.pod_overrides.dump(),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def model_version(observed: Observed, train: Obj, result: TrainResult) -> Obj:
    """The ModelVersion, owned by nobody: it outlives its job. Raises InvalidResult."""
    text = (train["metadata"].get("annotations") or {}).get(DRAFT) or ""
    try:
        document: dict[str, Any] = json.loads(text)
        artefact = Artefact(uri=result.uri, digest=result.digest)
        version = ModelVersionSpec.model_validate(document | {"artefact": artefact.dump()})
    except ValidationError as error:
        raise InvalidResult(_first(error)) from error
    except (ValueError, TypeError) as error:
        raise InvalidResult(f"the annotation {DRAFT} of Job {train['metadata']['name']} was changed") from error
    if version.lineage.job_uid != observed.uid:
        raise InvalidResult(f"the annotation {DRAFT} of Job {train['metadata']['name']} was changed")
    return {
        "apiVersion": API_VERSION,
        "kind": "ModelVersion",
        "metadata": {
            "name": version_name(version.family, observed.uid),
            "namespace": observed.namespace,
            "labels": {FAMILY: version.family, JOB: observed.name},
        },
        "spec": version.dump(),
    }


def parent_of(prepare: Obj) -> str | None:
    """Name of the version that training starts from, as the prepare Job keeps it."""
    found = (prepare["metadata"].get("annotations") or {}).get(VERSION)
    return found if isinstance(found, str) else None


def _trigger(job: Obj) -> Trigger:
    """From the annotation that whoever created the job left; without one, or with a broken one, a user did."""
    try:
        return Trigger.model_validate_json((job["metadata"].get("annotations") or {}).get(TRIGGER) or "")
    except ValidationError:
        return Trigger(kind="User")


def _bounded(suite: SuiteSpec, spec: FineTuneJobSpec) -> SuiteSpec:
    """The suite with its own limit of tokens: prepare refuses items that no answer could match."""
    return suite.model_copy(update={"max_tokens": suite.max_tokens or spec.evaluation.max_tokens})


def _resolved(suite: SuiteSpec, data: PrepareResult) -> SuiteSpec:
    items = next((found for found in data.suites if found.name == suite.name), None)
    if items is not None:
        return suite.model_copy(update={"items": None, "uri": data.items_uri(items), "digest": items.digest})
    if suite.uri is None:
        raise InvalidResult(f"prepare wrote no items for suite {suite.name}")
    return suite


def _first(error: ValidationError) -> str:
    found = error.errors()[0]
    return f"{'.'.join(str(part) for part in found['loc'])}: {found['msg']}"

"""The tasks of a job's pods, and the ModelVersion that the job creates. Pure."""

import json
from dataclasses import dataclass
from typing import Any, assert_never

from pydantic import ValidationError

from driftloop.api.base import API_VERSION
from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.api.modelversion import Lineage, ModelArtefact, ModelShape, ModelVersionSpec, Trigger, VersionEvaluation
from driftloop.api.suite import SuiteSpec
from driftloop.contract.modelfolder import MAX_ADAPTERS
from driftloop.contract.result import ModelFacts, PrepareResult, TrainResult
from driftloop.contract.task import AnswerTask, DoorTask, EvaluateTask, ModelSource, PrepareTask, ServeTask, TrainTask
from driftloop.contract.uris import join
from driftloop.controller.kinds.finetunejob.memory import logits_bytes
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, resolved
from driftloop.controller.kinds.finetunejob.stages import Stages
from driftloop.controller.kinds.finetunejob.start import Start
from driftloop.controller.pods import jobs
from driftloop.controller.vocabulary.labels import DRAFT, FAMILY, JOB, RESUMED, TRIGGER, VERSION
from driftloop.controller.vocabulary.naming import version_name
from driftloop.controller.vocabulary.objects import annotations
from driftloop.controller.vocabulary.plan import Obj


class InvalidResult(ValueError):
    """A stage result that the next stage can't use."""


@dataclass(frozen=True)
class Prepared:
    """The task and result of a finished prepare stage."""

    task: PrepareTask  # its task, which records the model from which training starts
    data: PrepareResult  # its result
    parent: str | None = None  # name of the ModelVersion from which training starts, if it starts from one
    resumed: str | None = None  # the run from whose last checkpoint training resumes, if it resumes from one

    @property
    def model(self) -> ModelSource:
        """The model from which training starts: the one that prepare created or resolved, else the one in its task."""
        return ModelSource(
            uri=self.data.model_uri or self.task.model.uri,
            digest=None if self.data.model_unlisted else self._digest,
            content=self._digest if self.data.model_unlisted else None,
            bases=self.task.model.bases,
        )

    @property
    def _digest(self) -> str | None:
        return self.data.model_digest or self.task.model.digest

    @property
    def bases(self) -> tuple[str, ...]:
        """The folders that the trained version will need; none if it will be a whole model."""
        return () if self.task.merge_adapter or self.model.uri is None else (self.model.uri, *self.model.bases)


def prepare_task(observed: Observed, start: Start) -> PrepareTask:
    """The task to clean, divide and tokenise the data of the job."""
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
        # Each adapter on the others makes pods slower to start.
        merge_adapter=spec.output.merge_adapter or len(start.model.bases) >= MAX_ADAPTERS,
        suites=tuple(_bounded(suite, spec) for suite in spec.evaluation.suites),
        contract=spec.evaluation.contract,
        storage=spec.storage,
        output=join(spec.storage, "prepared", observed.uid),
    )


def train_task(stages: Stages, prepared: Prepared, plan: TrainingPlan, lineage: Lineage) -> TrainTask:
    """The task to train on the prepared data according to the plan."""
    observed, attempt, spec = stages.observed, stages.attempt, stages.spec
    return TrainTask(
        job=observed.name,
        job_uid=observed.uid,
        family=spec.output.family,
        model=prepared.model,
        data_uri=prepared.data.uri,
        data_digest=prepared.data.digest,
        training=resolved(spec).model_copy(update={"compile": plan.status.compile}),
        merge_adapter=prepared.task.merge_adapter,
        nodes=spec.compute.nodes,
        workers_per_node=plan.workers_per_node,
        gpus_per_node=spec.compute.gpus_per_node,
        elastic=spec.compute.elastic,
        parallelism=plan.parallelism,
        gradient_accumulation_steps=plan.status.gradient_accumulation_steps,
        gradient_reduction=plan.status.gradient_reduction,
        checkpoints=plan.status.checkpoints,
        per_device_train_batch_size=plan.per_device_train_batch_size,
        logits_bytes=logits_bytes(spec.training),
        total_steps=plan.status.total_steps,
        head=jobs.head_name(observed.job, attempt, stages.settings),
        startup_timeout_seconds=spec.compute.startup_timeout_seconds,
        grace_period_seconds=spec.compute.grace_period_seconds,
        backoff_limit=spec.compute.backoff_limit,
        attempt=attempt,
        runs=join(spec.storage, "runs", observed.uid),
        resume_from=prepared.resumed,
        output=join(spec.storage, "versions", observed.uid),
        lineage=lineage,
    )


def lineage(observed: Observed, prepared: Prepared, trainer_image: str) -> Lineage:
    """The lineage of the version that the job will create. Raises InvalidResult."""
    try:
        return Lineage(
            job=observed.name,
            job_uid=observed.uid,
            parent=prepared.parent,
            base_digest=prepared.model.digest or prepared.model.content,
            data_uri=prepared.data.uri,
            data_digest=prepared.data.digest,
            held_out_salt=prepared.task.held_out_salt or prepared.task.family,
            held_out_percent=prepared.task.data.held_out_percent,
            tokenizer_digest=prepared.data.tokenizer_digest,
            trainer_image=trainer_image,
            trigger=_trigger(observed.job),
        )
    except ValidationError as error:
        raise InvalidResult(_first(error)) from error


def draft(spec: FineTuneJobSpec, lineage: Lineage, prepared: Prepared) -> str:
    """The spec of the ModelVersion without what is trained, as JSON. Raises InvalidResult when a suite has no items.

    It becomes an annotation of the train Job, so that creating the ModelVersion needs no object that may be gone then.
    """
    data = prepared.data
    try:
        fields = spec.evaluation.model_dump(exclude={"suites"})
        fields["queue_name"] = spec.evaluation.queue_name or spec.compute.queue_name
        evaluation = VersionEvaluation(
            **fields,
            suites=[_resolved(suite, data) for suite in spec.evaluation.suites],
            storage=join(spec.storage, "evaluations"),
        )
    except ValidationError as error:
        raise InvalidResult(_first(error)) from error
    shape = None if spec.training.entrypoint else _shape(data.model)  # a user's code may write another model
    document = {
        "family": spec.output.family,
        "lineage": lineage.dump(),
        **({"model": shape.dump()} if shape else {}),
        **({"artefact": {"bases": prepared.bases}} if prepared.bases else {}),
        "evaluation": evaluation.dump(),
        "podOverrides": spec.pod_overrides.dump(),
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":"))


def _shape(facts: ModelFacts) -> ModelShape | None:
    """The sizes that serving needs; None if the model keeps something else than keys and values of each token."""
    if not (facts.bare_parameters and facts.cache_elements and facts.max_position_embeddings and facts.dtype):
        return None
    return ModelShape(
        parameters=facts.bare_parameters,
        dtype=facts.dtype,
        layers=facts.num_layers,
        attention_heads=facts.num_attention_heads,
        key_value_heads=facts.num_key_value_heads,
        cache_elements=facts.cache_elements,
        context_length=facts.max_position_embeddings,
    )


def model_version(observed: Observed, train: Obj, result: TrainResult) -> Obj:
    """The ModelVersion. It has no owner, so that it outlives its job. Raises InvalidResult."""
    text = annotations(train).get(DRAFT) or ""
    try:
        document: dict[str, Any] = json.loads(text)
        artefact = ModelArtefact.model_validate(
            {**document.get("artefact", {}), "uri": result.uri, "digest": result.digest}
        )
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


def prepare_task_of(prepare: Obj) -> PrepareTask | None:
    """The task of the prepare Job; None if it does not parse or is the task of another stage."""
    match jobs.task_of(prepare):
        case PrepareTask() as task:
            return task
        case TrainTask() | AnswerTask() | EvaluateTask() | ServeTask() | DoorTask() | None:
            return None
        case never:
            assert_never(never)


def train_task_of(train: Obj) -> TrainTask | None:
    """The task of a train Job; None if it does not parse or is the task of another stage."""
    match jobs.task_of(train):
        case TrainTask() as task:
            return task
        case PrepareTask() | AnswerTask() | EvaluateTask() | ServeTask() | DoorTask() | None:
            return None
        case never:
            assert_never(never)


def prepared_by(prepare: Obj, task: PrepareTask, data: PrepareResult) -> Prepared:
    """The finished stage, with what was recorded on its Job when it was created."""
    recorded = annotations(prepare)
    return Prepared(task, data, recorded.get(VERSION), recorded.get(RESUMED))


def _trigger(job: Obj) -> Trigger:
    """What triggered the job, from its annotation; a user if there is no valid annotation."""
    try:
        return Trigger.model_validate_json(annotations(job).get(TRIGGER) or "")
    except ValidationError:
        return Trigger(kind="User")


def _bounded(suite: SuiteSpec, spec: FineTuneJobSpec) -> SuiteSpec:
    """The suite with its token limit filled in: prepare refuses items whose answers could not fit."""
    return suite.model_copy(update={"max_tokens": suite.max_tokens or spec.evaluation.max_tokens})


def _resolved(suite: SuiteSpec, data: PrepareResult) -> SuiteSpec:
    items = next((found for found in data.suites if found.name == suite.name), None)
    if items is not None:
        written = {"items": None, "uri": data.items_uri(items), "digest": items.digest}
        return suite.model_copy(update=written | {"independent_items": items.clusters})
    if suite.uri is None:
        raise InvalidResult(f"prepare wrote no items for suite {suite.name}")
    return suite


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"

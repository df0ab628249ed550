"""What must exist before a job starts: the model, the feedback, the volumes. Pure.

Observed (what was read)  ->  Case (the resolved references of the spec)  ->  the first Problem of CHECKS, else Start
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, assert_never

from pydantic import ValidationError

from driftloop.api.evaluation import asked_uris
from driftloop.api.finetunejob import HELD_OUT_PERCENT, FineTuneJobSpec
from driftloop.api.inferenceservice import FeedbackSpec
from driftloop.api.modelversion import Lineage, ModelArtefact
from driftloop.contract.task import FeedbackSource, ModelSource
from driftloop.contract.uris import claims_of, join, repository
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.pods.common import missing_claim
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class HeldOut:
    """Which rows are held out in this job and its descendants: the arguments of `contract.text.side`."""

    salt: str
    percent: int


@dataclass(frozen=True)
class Start:
    """The model and data from which training starts. `resumed`: the run from whose last checkpoint it resumes."""

    model: ModelSource
    held_out: HeldOut
    parent: str | None = None  # name of the ModelVersion from which training starts, if it starts from one
    feedback: FeedbackSource | None = None
    resumed: str | None = None


@dataclass(frozen=True)
class Waiting:
    """Something is missing that may appear without a change by a person."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Blocked:
    """A person must change another object than the job."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Refused:
    """The job can never start."""

    reason: Reason
    message: str


Problem = Waiting | Blocked | Refused


@dataclass(frozen=True)
class Origin:
    """The artefact and lineage of a ModelVersion."""

    artefact: ModelArtefact
    lineage: Lineage


@dataclass(frozen=True)
class Case:
    """A job without a Job yet, and the resolved references of its spec."""

    observed: Observed  # the objects that were read
    served: str | None  # name of the version that the service of model.from.serving serves
    version: Obj | None  # the ModelVersion to start from; None if the spec names none, or it does not exist
    origin: Origin | None  # artefact and lineage of `version`; None if they do not parse
    held_out: HeldOut  # inherited from `version`, else from the job's spec
    feedback: FeedbackSource | None  # the feedback to train on; None if the spec names none, or it is not stored

    @property
    def spec(self) -> FineTuneJobSpec:
        """The spec of the job."""
        return self.observed.spec

    @property
    def version_name(self) -> str | None:
        """Name of `version`."""
        return self.version["metadata"]["name"] if self.version else None

    @property
    def model(self) -> ModelSource:
        """The model from which training starts; empty while the version is unknown."""
        if self.origin:
            artefact = self.origin.artefact
            return ModelSource(uri=artefact.uri, digest=artefact.digest, bases=tuple(artefact.bases))
        source = self.spec.model.from_
        return ModelSource(new=source.config) if source.config else ModelSource(uri=source.uri, digest=source.digest)


def start(observed: Observed) -> Start | Problem:
    """The model and data to start from, or the first problem that prevents the start."""
    case = gather(observed)
    for check in CHECKS:
        if problem := check(case):
            return problem
    return Start(case.model, case.held_out, case.version_name, case.feedback, _run_of(observed))


def family_without_version(case: Case) -> Problem | None:
    """The family of model.from.family has no version yet that may be trained from."""
    family = case.spec.model.from_.family
    if family is None or case.version:
        return None
    message = (
        f"model.from.family: family {family} has no version yet in this namespace that is Approved or "
        "AwaitingApproval: wait for one, or correct the name"
    )
    return Waiting(Reason.NO_APPROVED_VERSION, message)


def service_absent(case: Case) -> Problem | None:
    """The InferenceService of model.from.serving does not exist yet."""
    serving = case.spec.model.from_.serving
    if serving is None or case.observed.serving:
        return None
    return _absent(Reason.SERVICE_NOT_FOUND, "model.from.serving", "InferenceService", serving.name)


def service_serving_nothing(case: Case) -> Problem | None:
    """The InferenceService of model.from.serving serves no version yet."""
    serving = case.spec.model.from_.serving
    if serving is None or case.served:
        return None
    return Waiting(Reason.NO_STABLE_VERSION, f"InferenceService {serving.name} serves no version yet")


def served_version_absent(case: Case) -> Problem | None:
    """The version that the InferenceService of model.from.serving serves was deleted."""
    serving = case.spec.model.from_.serving
    if serving is None or case.version:
        return None
    message = f"InferenceService {serving.name} serves ModelVersion {case.served}, which was deleted: create it again"
    return Waiting(Reason.VERSION_NOT_FOUND, message)


def version_absent(case: Case) -> Problem | None:
    """The ModelVersion of model.from.versionRef does not exist yet."""
    reference = case.spec.model.from_.version_ref
    if reference is None or case.version:
        return None
    return _absent(Reason.VERSION_NOT_FOUND, "model.from.versionRef", "ModelVersion", reference.name)


def version_not_approved(case: Case) -> Problem | None:
    """The version of model.from.versionRef failed its gates, or is not judged yet.

    A version that a service serves already needs no check.
    """
    if case.version is None or case.spec.model.from_.version_ref is None:
        return None
    match versions.phase(case.version):
        case "Approved" | "AwaitingApproval":
            return None
        case "Rejected" | "Failed" as phase:
            message = f"ModelVersion {case.version_name} is {phase}: start from an Approved one"
            return Refused(Reason.VERSION_NOT_APPROVED, message)
        case "Pending" | "Evaluating" | None:
            return Waiting(Reason.VERSION_NOT_APPROVED, f"ModelVersion {case.version_name} is not judged yet")
        case never:
            assert_never(never)


def version_unreadable(case: Case) -> Problem | None:
    """The artefact or lineage of the version does not parse."""
    if case.version is None or case.origin:
        return None
    message = f"ModelVersion {case.version_name} has no valid artefact or lineage"
    return Refused(Reason.INVALID_SPEC, message)


def held_out_percent_changed(case: Case) -> Problem | None:
    """The job's share of held-out rows differs from the share with which the version was trained."""
    own, inherited = case.spec.data.held_out_percent, case.held_out.percent
    if case.version is None or own is None or own == inherited:
        return None
    message = (
        f"data.heldOutPercent is {own}, but ModelVersion {case.version_name} was trained with {inherited}: the gates "
        f"would use rows that it was trained on. Omit the field, or set it to {inherited}"
    )
    return Refused(Reason.HELD_OUT_PERCENT_CHANGED, message)


def feedback_service_absent(case: Case) -> Problem | None:
    """The InferenceService of data.feedback.service does not exist yet."""
    source = case.spec.data.feedback
    if source is None or case.observed.feedback:
        return None
    return _absent(Reason.SERVICE_NOT_FOUND, "data.feedback.service", "InferenceService", source.service)


def feedback_not_taken(case: Case) -> Problem | None:
    """The InferenceService of data.feedback.service does not store feedback."""
    source = case.spec.data.feedback
    if source is None or case.feedback:
        return None
    message = f"InferenceService {source.service} does not store feedback: set its spec.feedback.storage"
    return Blocked(Reason.NO_FEEDBACK_STORAGE, message)


def anchor_absent(case: Case) -> Problem | None:
    """The ModelVersion of evaluation.anchor does not exist yet."""
    name = case.spec.evaluation.anchor
    if name is None or versions.by_name(case.observed.versions, name):
        return None
    return _absent(Reason.VERSION_NOT_FOUND, "evaluation.anchor", "ModelVersion", name)


def resumed_job_absent(case: Case) -> Problem | None:
    """The FineTuneJob of resumeFrom does not exist yet."""
    name = case.spec.resume_from
    if name is None or case.observed.resumed:
        return None
    return _absent(Reason.JOB_NOT_FOUND, "resumeFrom", "FineTuneJob", name)


def resumed_job_not_failed(case: Case) -> Problem | None:
    """The FineTuneJob of resumeFrom still trains, or has created its version."""
    resumed = case.observed.resumed
    if resumed is None:
        return None
    name, ended = resumed["metadata"]["name"], field(resumed, "status", "phase")
    if resumed["metadata"]["uid"] == case.observed.uid:
        return Refused(Reason.JOB_NOT_RESUMABLE, "resumeFrom names this job itself: name a Failed job")
    match ended:
        case "Failed":
            return None
        case "Succeeded":
            message = (
                f"resumeFrom: FineTuneJob {name} has created its version: name it in model.from.versionRef instead"
            )
            return Refused(Reason.JOB_NOT_RESUMABLE, message)
        case _:
            return Waiting(Reason.JOB_NOT_RESUMABLE, f"resumeFrom: FineTuneJob {name} has not ended yet")


def resumed_job_differs(case: Case) -> Problem | None:
    """The FineTuneJob of resumeFrom has another storage, or trains other weights.

    Another revision of the same repository may be right: that is the way to name the commit which a branch was then.
    """
    resumed = case.observed.resumed
    if resumed is None:
        return None
    for path in (("storage",), ("model",), ("training", "adapter")):
        theirs, own = (field(job, "spec", *path) for job in (resumed, case.observed.job))
        if _without_revision(theirs) != _without_revision(own):
            message = (
                f"resumeFrom: FineTuneJob {resumed['metadata']['name']} has another {'.'.join(path)}: use the same one"
            )
            return Refused(Reason.JOB_NOT_RESUMABLE, message)
    return None


def _without_revision(found: Any) -> Any:
    """A field of a spec; if it is the model, without the revision in its URI."""
    uri = field(found, "from", "uri") if isinstance(found, dict) else None
    return found | {"from": found["from"] | {"uri": repository(uri)}} if isinstance(uri, str) else found


def claim_absent(case: Case) -> Problem | None:
    """A PersistentVolumeClaim that the pods mount does not exist."""
    evaluation = case.spec.evaluation
    asked = asked_uris(evaluation.suites, evaluation.contract)
    feedback = [case.feedback.uri] if case.feedback else []
    read = [*case.spec.data.files, case.spec.training.code]
    uris = [case.spec.storage, case.model.uri, *case.model.bases, *read, *asked, *feedback]
    missing = missing_claim(uris, case.observed.claims)
    return Blocked(Reason.CLAIM_NOT_FOUND, missing) if missing else None


def claim_of_one_node(case: Case) -> Problem | None:
    """The job trains on several nodes, but a claim lets only one node write the storage or read the rest."""
    nodes = case.spec.compute.nodes
    if nodes == 1:
        return None
    for uri, modes in (
        (case.spec.storage, {"ReadWriteMany"}),
        *((uri, {"ReadWriteMany", "ReadOnlyMany"}) for uri in (case.model.uri, *case.model.bases)),
        (case.spec.training.code, {"ReadWriteMany", "ReadOnlyMany"}),
    ):
        for claim in claims_of([uri]):
            granted = field(case.observed.claims[claim], "spec", "accessModes") or []
            if not modes & set(granted):
                message = (
                    f"PersistentVolumeClaim {claim} has access modes {', '.join(granted) or 'none'}; {nodes} "
                    f"nodes need {' or '.join(sorted(modes))}: use another claim, or compute.nodes: 1"
                )
                return Blocked(Reason.NEEDS_READ_WRITE_MANY, message)
    return None


# The order matters: each check may rely on what the previous checks have ensured.
CHECKS: tuple[Callable[[Case], Problem | None], ...] = (
    family_without_version,
    service_absent,
    service_serving_nothing,
    served_version_absent,
    version_absent,
    version_not_approved,
    version_unreadable,
    held_out_percent_changed,
    feedback_service_absent,
    feedback_not_taken,
    anchor_absent,
    resumed_job_absent,
    resumed_job_not_failed,
    resumed_job_differs,
    claim_absent,
    claim_of_one_node,
)


def gather(observed: Observed) -> Case:
    """Resolve the references of the spec, as far as their objects exist."""
    source = observed.spec.model.from_
    serving = observed.serving if source.serving else None
    served = versions.stable_version(serving, observed.serving_deployments) if serving else None
    version = _version(observed, served)
    origin = _origin(version) if version else None
    own = HeldOut(observed.spec.output.family, _own_percent(observed.spec))
    return Case(
        observed=observed,
        served=served,
        version=version,
        origin=origin,
        held_out=_inherited(origin.lineage, version, observed.spec) if version and origin else own,
        feedback=_feedback(observed),
    )


def _run_of(observed: Observed) -> str | None:
    """The folder of the run of the job of resumeFrom."""
    if observed.resumed is None:
        return None
    return join(observed.spec.storage, "runs", observed.resumed["metadata"]["uid"])


def _absent(reason: Reason, path: str, kind: str, name: str) -> Waiting:
    """A referenced object that may still be created."""
    return Waiting(reason, f"{path}: {kind} {name} is not in this namespace: create it, or correct the name")


def _version(observed: Observed, served: str | None) -> Obj | None:
    source = observed.spec.model.from_
    if source.family is not None:
        return versions.to_start_from(observed.versions, source.family)
    name = source.version_ref.name if source.version_ref else served
    return versions.by_name(observed.versions, name) if name else None


def _origin(version: Obj) -> Origin | None:
    try:
        artefact = ModelArtefact.model_validate(field(version, "spec", "artefact"))
        lineage = Lineage.model_validate(field(version, "spec", "lineage") or {})
    except ValidationError:
        return None
    return Origin(artefact, lineage)


def _own_percent(spec: FineTuneJobSpec) -> int:
    percent = spec.data.held_out_percent
    return HELD_OUT_PERCENT if percent is None else percent


def _inherited(lineage: Lineage, version: Obj, spec: FineTuneJobSpec) -> HeldOut:
    """The held-out rule of a job that starts from a version.

    An imported version, or one of an older release, has no recorded share; then the job's own share counts.
    """
    salt = lineage.held_out_salt or versions.family(version) or spec.output.family
    percent = lineage.held_out_percent
    return HeldOut(salt, _own_percent(spec) if percent is None else percent)


def _feedback(observed: Observed) -> FeedbackSource | None:
    source, service = observed.spec.data.feedback, observed.feedback
    if source is None or service is None:
        return None
    try:
        kept = FeedbackSpec.model_validate(field(service, "spec", "feedback"))
    except ValidationError:
        return None
    return FeedbackSource(
        uri=join(kept.storage, service["metadata"]["uid"]),
        max_rows=source.max_rows,
        max_rows_per_user=source.max_rows_per_user,
    )

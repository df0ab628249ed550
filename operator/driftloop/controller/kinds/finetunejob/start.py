"""What must be there before a job starts: the model, the feedback, the volumes. Pure.

Observed (what was read)  ->  Case (what the spec's references lead to)  ->  the first Problem of CHECKS, else Start
"""

from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from driftloop.api.finetunejob import HELD_OUT_PERCENT, FineTuneJobSpec
from driftloop.api.inferenceservice import FeedbackSpec
from driftloop.api.modelversion import Artefact, Lineage
from driftloop.contract.task import FeedbackSource, ModelSource
from driftloop.contract.uris import claims_of, join
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.pods.common import missing_claim
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class HeldOut:
    """Which rows are held out, in this job and in all that come of it: salt and share of `contract.text.side`."""

    salt: str
    percent: int


@dataclass(frozen=True)
class Start:
    """Where training starts."""

    model: ModelSource
    held_out: HeldOut
    parent: str | None = None  # name of the ModelVersion, where it is one
    feedback: FeedbackSource | None = None


@dataclass(frozen=True)
class Waiting:
    """Something is missing that comes by itself when the loop goes on."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Blocked:
    """Somebody has to change something beside the job."""

    reason: Reason
    message: str


@dataclass(frozen=True)
class Refused:
    """It will never do."""

    reason: Reason
    message: str


Problem = Waiting | Blocked | Refused


@dataclass(frozen=True)
class Origin:
    """What a ModelVersion records of itself."""

    artefact: Artefact
    lineage: Lineage


@dataclass(frozen=True)
class Case:
    """A job without any Job, and what the references of its spec lead to."""

    observed: Observed  # the objects that were read
    served: str | None  # name of the version that the service of model.from.serving serves
    version: Obj | None  # the ModelVersion to start from; None where the spec asks for none, or it isn't there
    origin: Origin | None  # what `version` records; None where that can't be read
    held_out: HeldOut  # the rows to hold out: those of `version`, else the job's own
    feedback: FeedbackSource | None  # the feedback to train on; None where none is wanted, or none is taken

    @property
    def spec(self) -> FineTuneJobSpec:
        """Of the job."""
        return self.observed.spec

    @property
    def version_name(self) -> str | None:
        """Name of `version`."""
        return self.version["metadata"]["name"] if self.version else None

    @property
    def model(self) -> ModelSource:
        """What training starts from; empty while the version isn't known."""
        if self.origin:
            return ModelSource(uri=self.origin.artefact.uri, digest=self.origin.artefact.digest)
        source = self.spec.model.from_
        return ModelSource(new=source.config) if source.config else ModelSource(uri=source.uri, digest=source.digest)


def start(observed: Observed) -> Start | Problem:
    """Where training starts, or the first problem that keeps it from starting."""
    case = gather(observed)
    for check in CHECKS:
        if problem := check(case):
            return problem
    return Start(case.model, case.held_out, case.version_name, case.feedback)


def family_without_version(case: Case) -> Problem | None:
    """The family of model.from.family has no version that may be trained from, or not yet."""
    family = case.spec.model.from_.family
    if family is None or case.version:
        return None
    message = (
        f"model.from.family: family {family} has no version in this namespace yet that is Approved, or "
        "awaits approval to be served: wait for one, or correct the name"
    )
    return Waiting(Reason.NO_APPROVED_VERSION, message)


def service_absent(case: Case) -> Problem | None:
    """The InferenceService of model.from.serving is not there, or not yet."""
    serving = case.spec.model.from_.serving
    if serving is None or case.observed.serving:
        return None
    return _absent(Reason.SERVICE_NOT_FOUND, "model.from.serving", "InferenceService", serving.name)


def service_serving_nothing(case: Case) -> Problem | None:
    """That service serves no version yet."""
    serving = case.spec.model.from_.serving
    if serving is None or case.served:
        return None
    return Waiting(Reason.NO_STABLE_VERSION, f"InferenceService {serving.name} serves no version yet")


def served_version_absent(case: Case) -> Problem | None:
    """The version that it serves was deleted."""
    serving = case.spec.model.from_.serving
    if serving is None or case.version:
        return None
    message = f"InferenceService {serving.name} serves ModelVersion {case.served}, which is gone: create it again"
    return Waiting(Reason.VERSION_NOT_FOUND, message)


def version_absent(case: Case) -> Problem | None:
    """The ModelVersion of model.from.versionRef is not there, or not yet."""
    reference = case.spec.model.from_.version_ref
    if reference is None or case.version:
        return None
    return _absent(Reason.VERSION_NOT_FOUND, "model.from.versionRef", "ModelVersion", reference.name)


def version_not_approved(case: Case) -> Problem | None:
    """The gates don't let that version be trained from, or not yet. A version that serves is not asked for."""
    if case.version is None or case.spec.model.from_.version_ref is None:
        return None
    match versions.phase(case.version):
        case "Approved" | "AwaitingApproval":
            return None
        case "Rejected" | "Failed" as phase:
            message = f"ModelVersion {case.version_name} is {phase}: start from an Approved one"
            return Refused(Reason.VERSION_NOT_APPROVED, message)
        case _:
            return Waiting(Reason.VERSION_NOT_APPROVED, f"ModelVersion {case.version_name} is not judged yet")


def version_unreadable(case: Case) -> Problem | None:
    """The version doesn't say where its artefact lies and where it came from."""
    if case.version is None or case.origin:
        return None
    message = f"ModelVersion {case.version_name} has no artefact or lineage that can be read"
    return Refused(Reason.INVALID_SPEC, message)


def held_out_percent_changed(case: Case) -> Problem | None:
    """The job asks for another share of held-out rows than the one that the version was trained without."""
    own, inherited = case.spec.data.held_out_percent, case.held_out.percent
    if case.version is None or own is None or own == inherited:
        return None
    message = (
        f"data.heldOutPercent is {own}, and ModelVersion {case.version_name} was trained with {inherited}: the gates "
        f"would ask rows that it was trained on. Leave the field out, or set it to {inherited}"
    )
    return Refused(Reason.HELD_OUT_PERCENT_CHANGED, message)


def feedback_service_absent(case: Case) -> Problem | None:
    """The InferenceService of data.feedback.service is not there, or not yet."""
    wanted = case.spec.data.feedback
    if wanted is None or case.observed.feedback:
        return None
    return _absent(Reason.SERVICE_NOT_FOUND, "data.feedback.service", "InferenceService", wanted.service)


def feedback_not_taken(case: Case) -> Problem | None:
    """That service keeps no feedback."""
    wanted = case.spec.data.feedback
    if wanted is None or case.feedback:
        return None
    message = f"InferenceService {wanted.service} takes no feedback: set its spec.feedback.storage"
    return Blocked(Reason.NO_FEEDBACK_STORAGE, message)


def claim_absent(case: Case) -> Problem | None:
    """A PersistentVolumeClaim that the pods would mount is not there."""
    suites = [suite.uri for suite in case.spec.evaluation.suites]
    feedback = [case.feedback.uri] if case.feedback else []
    uris = [case.spec.storage, case.model.uri, *case.spec.data.files, *suites, *feedback]
    missing = missing_claim(uris, case.observed.claims)
    return Blocked(Reason.CLAIM_NOT_FOUND, missing) if missing else None


def claim_of_one_node(case: Case) -> Problem | None:
    """Several nodes would train, and a claim lets only one of them write to the storage or read the model."""
    nodes = case.spec.compute.nodes
    if nodes == 1:
        return None
    for uri, modes in (
        (case.spec.storage, {"ReadWriteMany"}),
        (case.model.uri, {"ReadWriteMany", "ReadOnlyMany"}),
    ):
        for claim in claims_of([uri]):
            granted = field(case.observed.claims[claim], "spec", "accessModes") or []
            if not modes & set(granted):
                message = (
                    f"PersistentVolumeClaim {claim} is {', '.join(granted) or 'of no access mode'}; {nodes} "
                    "nodes need ReadWriteMany: use another claim, or compute.nodes: 1"
                )
                return Blocked(Reason.NEEDS_READ_WRITE_MANY, message)
    return None


# In this order: each may rely on what those before it made sure of.
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
    claim_absent,
    claim_of_one_node,
)


def gather(observed: Observed) -> Case:
    """What the references of the spec lead to, each as far as it leads."""
    wanted = observed.spec.model.from_
    serving = observed.serving if wanted.serving else None
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


def _absent(reason: Reason, path: str, kind: str, name: str) -> Waiting:
    """What is referred to may yet come."""
    return Waiting(reason, f"{path}: {kind} {name} is not in this namespace: create it, or correct the name")


def _version(observed: Observed, served: str | None) -> Obj | None:
    wanted = observed.spec.model.from_
    if wanted.family is not None:
        return versions.to_start_from(observed.versions, wanted.family)
    name = wanted.version_ref.name if wanted.version_ref else served
    return versions.by_name(observed.versions, name) if name else None


def _origin(version: Obj) -> Origin | None:
    try:
        artefact = Artefact.model_validate(field(version, "spec", "artefact"))
        lineage = Lineage.model_validate(field(version, "spec", "lineage") or {})
    except ValidationError:
        return None
    return Origin(artefact, lineage)


def _own_percent(spec: FineTuneJobSpec) -> int:
    percent = spec.data.held_out_percent
    return HELD_OUT_PERCENT if percent is None else percent


def _inherited(lineage: Lineage, version: Obj, spec: FineTuneJobSpec) -> HeldOut:
    """Of a job that starts from a version. One that was imported, or made before this was recorded, leaves the share
    open."""
    salt = lineage.held_out_salt or versions.family(version) or spec.output.family
    percent = lineage.held_out_percent
    return HeldOut(salt, _own_percent(spec) if percent is None else percent)


def _feedback(observed: Observed) -> FeedbackSource | None:
    wanted, service = observed.spec.data.feedback, observed.feedback
    if wanted is None or service is None:
        return None
    try:
        kept = FeedbackSpec.model_validate(field(service, "spec", "feedback"))
    except ValidationError:
        return None
    return FeedbackSource(
        uri=join(kept.storage, service["metadata"]["uid"]),
        max_rows=wanted.max_rows,
        max_rows_per_user=wanted.max_rows_per_user,
    )

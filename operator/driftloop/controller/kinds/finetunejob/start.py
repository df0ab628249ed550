"""What must be there before a job starts: the model, the feedback, the volumes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from driftloop.api.finetunejob import HELD_OUT_PERCENT, FineTuneJobSpec
from driftloop.api.inferenceservice import FeedbackSpec
from driftloop.api.modelversion import Artefact, Lineage
from driftloop.contract.task import FeedbackSource, ModelSource
from driftloop.contract.uris import claims_of, join
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.finetunejob.observed import Observed
from driftloop.controller.pods.common import missing_claim
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


Obstacle = Waiting | Blocked | Refused


def start(observed: Observed) -> Start | Obstacle:
    """Resolve the references of the job, and check the volumes that it names."""
    found = _model(observed)
    if not isinstance(found, Start):
        return found
    feedback = _feedback(observed)
    if isinstance(feedback, Obstacle):
        return feedback
    found = replace(found, feedback=feedback)
    return check_claims(observed.spec, found, observed.claims) or found


def check_claims(spec: FineTuneJobSpec, found: Start, claims: Mapping[str, Obj]) -> Blocked | None:
    """Every claim exists, and several nodes can write (or read) what several nodes must."""
    rows = spec.data.files
    suites = [suite.uri for suite in spec.evaluation.suites]
    feedback = [found.feedback.uri] if found.feedback else []
    if missing := missing_claim([spec.storage, found.model.uri, *rows, *suites, *feedback], claims):
        return Blocked(Reason.CLAIM_NOT_FOUND, missing)
    if spec.compute.nodes == 1:
        return None
    for uris, modes in (
        ([spec.storage], {"ReadWriteMany"}),
        ([found.model.uri], {"ReadWriteMany", "ReadOnlyMany"}),
    ):
        for claim in claims_of(uris):
            have = (claims[claim].get("spec") or {}).get("accessModes") or []
            if not modes & set(have):
                return Blocked(
                    Reason.NEEDS_READ_WRITE_MANY,
                    f"PersistentVolumeClaim {claim} is {', '.join(have) or 'of no access mode'}; {spec.compute.nodes} "
                    "nodes need ReadWriteMany: use another claim, or compute.nodes: 1",
                )
    return None


def _model(observed: Observed) -> Start | Obstacle:
    source = observed.spec.model.from_
    if source.config is not None:
        return Start(ModelSource(new=source.config), _first_held_out(observed.spec))
    if source.uri is not None:
        return Start(ModelSource(uri=source.uri, digest=source.digest), _first_held_out(observed.spec))
    if source.family is not None:
        version = versions.to_start_from(observed.versions, source.family)
        if version is None:
            message = (
                f"model.from.family: family {source.family} has no version in this namespace yet that is Approved, or "
                "awaits approval to be served: wait for one, or correct the name"
            )
            return Waiting(Reason.NO_APPROVED_VERSION, message)
        return _from_version(version, observed.spec)
    name = source.version_ref.name if source.version_ref else None
    if source.serving is not None:
        if observed.serving is None:
            return _absent(Reason.SERVICE_NOT_FOUND, "model.from.serving", "InferenceService", source.serving.name)
        name = versions.stable_version(observed.serving, observed.serving_deployments)
        if name is None:
            return Waiting(Reason.NO_STABLE_VERSION, f"InferenceService {source.serving.name} serves no version yet")
    version = versions.by_name(observed.versions, name or "")
    if version is None:
        if source.serving is not None:
            message = (
                f"InferenceService {source.serving.name} serves ModelVersion {name}, which is gone: create it again"
            )
            return Waiting(Reason.VERSION_NOT_FOUND, message)
        return _absent(Reason.VERSION_NOT_FOUND, "model.from.versionRef", "ModelVersion", name or "")
    if source.serving is None and (obstacle := _unapproved(version)):
        return obstacle
    return _from_version(version, observed.spec)


def _absent(reason: Reason, field: str, kind: str, name: str) -> Waiting:
    """What is referred to may yet come."""
    return Waiting(reason, f"{field}: {kind} {name} is not in this namespace: create it, or correct the name")


def _unapproved(version: Obj) -> Obstacle | None:
    phase, name = versions.phase(version), version["metadata"]["name"]
    if phase in versions.TRAINABLE:
        return None
    if phase in ("Rejected", "Failed"):
        return Refused(Reason.VERSION_NOT_APPROVED, f"ModelVersion {name} is {phase}: start from an Approved one")
    return Waiting(Reason.VERSION_NOT_APPROVED, f"ModelVersion {name} is not judged yet")


def _from_version(version: Obj, spec: FineTuneJobSpec) -> Start | Obstacle:
    name, document = version["metadata"]["name"], version.get("spec") or {}
    try:
        artefact = Artefact.model_validate(document.get("artefact"))
        lineage = Lineage.model_validate(document.get("lineage") or {})
    except ValidationError:
        return Refused(Reason.INVALID_SPEC, f"ModelVersion {name} has no artefact or lineage that can be read")
    held_out = _inherited(lineage, versions.family(version) or spec.output.family, spec)
    asked = spec.data.held_out_percent
    if asked is not None and asked != held_out.percent:
        return Refused(
            Reason.HELD_OUT_PERCENT_CHANGED,
            f"data.heldOutPercent is {asked}, and ModelVersion {name} was trained with {held_out.percent}: the gates "
            f"would ask rows that it was trained on. Leave the field out, or set it to {held_out.percent}",
        )
    return Start(ModelSource(uri=artefact.uri, digest=artefact.digest), held_out, parent=name)


def _first_held_out(spec: FineTuneJobSpec) -> HeldOut:
    """Of a job that starts from no version: its family begins the ancestry."""
    asked = spec.data.held_out_percent
    return HeldOut(spec.output.family, HELD_OUT_PERCENT if asked is None else asked)


def _inherited(lineage: Lineage, family: str, spec: FineTuneJobSpec) -> HeldOut:
    """Of a job that starts from a version. One that was imported, or made before this was recorded, leaves the share
    open."""
    percent = lineage.held_out_percent
    return HeldOut(lineage.held_out_salt or family, _first_held_out(spec).percent if percent is None else percent)


def _feedback(observed: Observed) -> FeedbackSource | Obstacle | None:
    wanted = observed.spec.data.feedback
    if wanted is None:
        return None
    if observed.feedback is None:
        return _absent(Reason.SERVICE_NOT_FOUND, "data.feedback.service", "InferenceService", wanted.service)
    try:
        given = FeedbackSpec.model_validate((observed.feedback.get("spec") or {}).get("feedback"))
    except ValidationError:
        message = f"InferenceService {wanted.service} takes no feedback: set its spec.feedback.storage"
        return Blocked(Reason.NO_FEEDBACK_STORAGE, message)
    return FeedbackSource(
        uri=join(given.storage, observed.feedback["metadata"]["uid"]),
        max_rows=wanted.max_rows,
        max_rows_per_user=wanted.max_rows_per_user,
    )

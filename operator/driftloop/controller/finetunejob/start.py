"""What must be there before a job starts: the model, the feedback, the volumes. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.api.inferenceservice import FeedbackSpec
from driftloop.api.modelversion import Artefact
from driftloop.contract.storage import join
from driftloop.contract.task import FeedbackSource, ModelSource
from driftloop.controller import versions
from driftloop.controller.core import Obj
from driftloop.controller.finetunejob.observed import Observed
from driftloop.controller.pods.common import claims_of, missing_claim
from driftloop.controller.reasons import Reason


@dataclass(frozen=True)
class Start:
    """Where training starts."""

    model: ModelSource
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
    found = Start(found.model, found.parent, feedback)
    return check_claims(observed.spec, found, observed.claims) or found


def check_claims(spec: FineTuneJobSpec, found: Start, claims: Mapping[str, Obj]) -> Blocked | None:
    """Every claim exists, and several nodes can write (or read) what several nodes must."""
    replayed = spec.data.replay.sources if spec.data.replay else []
    rows = [source.uri for source in [*spec.data.sources, *replayed]]
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
        return Start(ModelSource(new=source.config))
    if source.uri is not None:
        return Start(ModelSource(uri=source.uri, digest=source.digest))
    if source.family is not None:
        version = versions.to_start_from(observed.versions, source.family)
        if version is None:
            message = f"family {source.family} has no version yet that is Approved, or awaits approval to be served"
            return Waiting(Reason.NO_APPROVED_VERSION, message)
        return _from_version(version)
    name = source.version_ref.name if source.version_ref else None
    if source.serving is not None:
        if observed.serving is None:
            return Waiting(Reason.SERVICE_NOT_FOUND, f"InferenceService {source.serving.name} does not exist")
        name = versions.stable_version(observed.serving, observed.serving_deployments)
        if name is None:
            return Waiting(Reason.NO_STABLE_VERSION, f"InferenceService {source.serving.name} serves no version yet")
    version = versions.by_name(observed.versions, name or "")
    if version is None:
        return Waiting(Reason.VERSION_NOT_FOUND, f"ModelVersion {name} does not exist")
    if source.serving is None and (obstacle := _unapproved(version)):
        return obstacle
    return _from_version(version)


def _unapproved(version: Obj) -> Obstacle | None:
    phase, name = versions.phase(version), version["metadata"]["name"]
    if phase in versions.TRAINABLE:
        return None
    if phase in ("Rejected", "Failed"):
        return Refused(Reason.VERSION_NOT_APPROVED, f"ModelVersion {name} is {phase}: start from an Approved one")
    return Waiting(Reason.VERSION_NOT_APPROVED, f"ModelVersion {name} is not judged yet")


def _from_version(version: Obj) -> Start | Obstacle:
    name = version["metadata"]["name"]
    try:
        artefact = Artefact.model_validate((version.get("spec") or {}).get("artefact"))
    except ValidationError:
        return Refused(Reason.INVALID_SPEC, f"ModelVersion {name} has no artefact that can be read")
    return Start(ModelSource(uri=artefact.uri, digest=artefact.digest), parent=name)


def _feedback(observed: Observed) -> FeedbackSource | Obstacle | None:
    wanted = observed.spec.data.feedback
    if wanted is None:
        return None
    if observed.feedback is None:
        return Waiting(Reason.SERVICE_NOT_FOUND, f"InferenceService {wanted.service} of data.feedback does not exist")
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

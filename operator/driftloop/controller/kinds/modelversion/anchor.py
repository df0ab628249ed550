"""The anchor: the version from which suites with totalDelta count the loss, so that small losses do not add up. Pure.

Each version may lose almost delta against the stable one, and then becomes the stable one. The anchor stays the same: a
version inherits the anchor that the stable version was compared with. The first one has the stable version itself.
"""

from dataclasses import dataclass
from typing import assert_never

from pydantic import ValidationError

from driftloop.api.modelversion import AnchorStatus, ModelArtefact, VersionEvaluation
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.modelversion.comparison import Baseline, NoBaseline, Unknown
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj
from driftloop.controller.vocabulary.reasons import Reason


@dataclass(frozen=True)
class Anchor:
    """The version from which the loss is counted."""

    status: AnchorStatus  # what the version's status says about it
    artefact: ModelArtefact  # its model, which an answering pod loads

    @property
    def digest(self) -> str:
        """Digest of the anchor's artefact."""
        return self.status.digest


def is_anchored(evaluation: VersionEvaluation) -> bool:
    """Whether a suite counts the loss from an anchor."""
    return any(suite.total_delta is not None for suite in evaluation.suites)


def anchor_of(observed: Observed, baseline: Baseline | NoBaseline) -> Anchor | Unknown | None:
    """The anchor of the version; None if no suite needs it, or if there is nothing to compare with."""
    if not is_anchored(observed.spec.evaluation):
        return None
    match baseline:
        case Baseline() as stable:
            return _anchor_beside(observed, stable)
        case NoBaseline():
            return None
        case never:
            assert_never(never)


def anchors_of(stable: Obj | None) -> AnchorStatus | None:
    """The anchor that a version was compared with; None if its status has none."""
    try:
        return AnchorStatus.model_validate(field(stable, "status", "plan", "anchor"))
    except ValidationError:
        return None


def _anchor_beside(observed: Observed, stable: Baseline) -> Anchor | Unknown:
    named, inherited = observed.spec.evaluation.anchor, None
    if named is None:
        inherited = anchors_of(versions.by_name(observed.versions, stable.status.version))
    name = named or (inherited.version if inherited else stable.status.version)
    if name == observed.name:
        return Unknown(Reason.ANCHOR_NOT_FOUND, _itself(observed, stable, named is not None))
    try:
        artefact = ModelArtefact.model_validate(field(versions.by_name(observed.versions, name), "spec", "artefact"))
    except ValidationError:
        return Unknown(Reason.ANCHOR_NOT_FOUND, f"the anchor, ModelVersion {name}, does not exist: {_REMEDY}")
    if inherited is not None and artefact.digest != inherited.digest:
        message = f"the anchor, ModelVersion {name}, is another model now: its digest was {inherited.digest}: {_REMEDY}"
        return Unknown(Reason.ANCHOR_NOT_FOUND, message)
    return Anchor(AnchorStatus(version=name, digest=artefact.digest), artefact)


def _itself(observed: Observed, stable: Baseline, is_named: bool) -> str:
    if is_named:
        return f"evaluation.anchor names this version itself: {_REMEDY}"
    return (
        f"this version is the anchor of the stable version {stable.status.version}, so it was created again after it. "
        "As the anchor it needs no evaluation. To serve its model again, create a ModelVersion of another name with "
        "the same artefact"
    )


_REMEDY = (
    "create it again with the same artefact, or train a version whose evaluation.anchor names another one, from which "
    "the loss is counted anew"
)

"""The number of each look at the items of a suite, fixed before the evaluation runs. Pure.

All comparisons with one stable version on one set of items err together in at most 5 %, so each look has a number of
its own. The comparisons with the anchor are counted in the same way, by themselves. The number is in the status of the
version from before its evaluation, and in the task of its evaluate Job.
Versions that begin at the same moment do not see each other's numbers, so each leaves those of older versions free.
A number that nobody took in the end only makes later looks stricter.

The items are those with the same digest, or the same URI without one. A deleted version's look is forgotten, as is the
overlap of a set of items with an earlier one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from driftloop.api.modelversion import AnchorStatus, EvaluationPlan, SuitePlan
from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import bound_of, items_needed
from driftloop.contract.looks import Look
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.modelversion.evaluation import Evaluation, evaluate_task_of
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj


def plan_of(evaluation: Evaluation) -> EvaluationPlan:
    """The plan of the evaluation: that of its evaluate Job, else the recorded one, else a new one."""
    observed, digest = evaluation.observed, evaluation.baseline.digest
    anchor = evaluation.anchor.status if evaluation.anchor else None
    task = evaluate_task_of(evaluation.latest.job) if evaluation.latest else None
    if task is not None:
        asked = AnchorStatus(version=task.anchor.version, digest=task.anchor.digest) if task.anchor else None
        return _plan(observed, task.baseline.digest if task.baseline else None, task.looks, asked, task.anchor_looks)
    recorded = observed.status.plan
    if recorded is not None and (recorded.baseline, recorded.anchor) == (digest, anchor):
        return recorded
    suites = observed.spec.evaluation.suites
    looks = {suite.name: _number(suite, observed, digest) for suite in suites}
    anchored = [suite for suite in suites if anchor and suite.total_delta is not None]
    anchor_looks = {suite.name: _number(suite, observed, anchor.digest, _AT_ANCHOR) for suite in anchored if anchor}
    return _plan(observed, digest, looks, anchor, anchor_looks)


def looks_of(plan: EvaluationPlan) -> dict[str, int]:
    """The numbers of the looks, by suite."""
    return {suite.name: suite.look for suite in plan.suites}


def anchor_looks_of(plan: EvaluationPlan) -> dict[str, int]:
    """The numbers of the looks with the anchor, by suite with totalDelta."""
    return {suite.name: suite.anchor_look for suite in plan.suites if suite.anchor_look is not None}


def uses_of(observed: Observed) -> dict[str, int]:
    """The number of other versions, per suite, that were judged by exactly the same items."""
    judged = [version for version in _others(observed) if _is_judged(version)]
    return {
        suite.name: sum(1 for version in judged if _suites_with(version, suite))
        for suite in observed.spec.evaluation.suites
        if suite.digest
    }


def _plan(
    observed: Observed,
    baseline: str | None,
    looks: dict[str, int],
    anchor: AnchorStatus | None,
    anchor_looks: dict[str, int],
) -> EvaluationPlan:
    suites = observed.spec.evaluation.suites
    plans = [_suite_plan(suite, looks.get(suite.name, 1), anchor_looks.get(suite.name)) for suite in suites]
    return EvaluationPlan(baseline=baseline, anchor=anchor, suites=plans)


def _suite_plan(suite: SuiteSpec, number: int, at_anchor: int | None) -> SuitePlan:
    needed = items_needed(suite, number, at_anchor)
    return SuitePlan(
        name=suite.name,
        items=suite.independent_items,
        delta=f"{bound_of(suite):.4f}",
        look=number,
        alpha=f"{Look(number).alpha:.6f}",
        least_items=needed.least,
        planned_items=needed.planned,
        enough=needed.enough(suite.independent_items),
        anchor_look=at_anchor,
    )


@dataclass(frozen=True)
class _Kind:
    """Where a version's plan records its looks of one kind."""

    digest: tuple[str, ...]  # path of the digest of the version that it is compared with
    look: str  # name of the number


_AT_STABLE, _AT_ANCHOR = _Kind(("baseline",), "look"), _Kind(("anchor", "digest"), "anchorLook")


def _number(suite: SuiteSpec, observed: Observed, compared: str | None, kind: _Kind = _AT_STABLE) -> int:
    """One more than the highest recorded number, and than the number of looks that older versions may take."""
    highest, before = 0, 0
    for version in _others(observed):
        if not (names := _suites_with(version, suite)):
            continue
        plan = field(version, "status", "plan")
        if plan is not None and field(plan, *kind.digest) == compared:
            highest = max([highest, *_recorded(plan, names, kind)])
            before += _age(version) < _age(observed.version)
        elif (plan is None and _looked(version, compared)) or _may_look(version, observed):
            before += 1
    return max(highest, before) + 1


def _others(observed: Observed) -> Iterator[Obj]:
    return (version for version in observed.versions if version["metadata"]["uid"] != observed.uid)


def _suites_with(version: Obj, suite: SuiteSpec) -> set[str]:
    """The names of the version's suites that have the same items."""
    suites = field(version, "spec", "evaluation", "suites") or []
    key = suite.digest or suite.uri
    return {entry["name"] for entry in suites if (entry.get("digest") or entry.get("uri")) == key}


def _recorded(plan: Obj, names: set[str], kind: _Kind) -> list[int]:
    numbers = [field(entry, kind.look) for entry in field(plan, "suites") or [] if field(entry, "name") in names]
    return [look for look in numbers if isinstance(look, int)]


def _is_judged(version: Obj) -> bool:
    return versions.phase(version) in ("Approved", "Rejected")


def _looked(version: Obj, baseline: str | None) -> bool:
    """Whether a version without a recorded plan was compared with this stable version."""
    return _is_judged(version) and field(version, "status", "baseline", "digest") == baseline


def _may_look(version: Obj, observed: Observed) -> bool:
    """Whether an older version of the family is not judged yet, or could not be."""
    same = versions.family(version) == observed.spec.family
    waits = (*versions.UNJUDGED, "Failed")
    return same and versions.phase(version) in waits and _age(version) < _age(observed.version)


def _age(version: Obj) -> tuple[str, str]:
    return version["metadata"]["creationTimestamp"], version["metadata"]["name"]

"""The number of each look at the items of a suite, fixed before the evaluation runs. Pure.

All comparisons with one stable version on one set of items err together in at most 5 %, so each look has a number of
its own. The number is in the status of the version from before its evaluation, and in the task of its evaluate Job.
Versions that begin at the same moment do not see each other's numbers, so each leaves those of older versions free.
A number that nobody took in the end only makes later looks stricter.

The items are those with the same digest, or the same URI without one. A deleted version's look is forgotten, as is the
overlap of a set of items with an earlier one.
"""

from collections.abc import Iterator

from driftloop.api.modelversion import EvaluationPlan, SuitePlan
from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import least_items
from driftloop.contract.looks import Look
from driftloop.controller.kinds import versions
from driftloop.controller.kinds.modelversion.evaluation import Evaluation, evaluate_task_of
from driftloop.controller.kinds.modelversion.observed import Observed
from driftloop.controller.vocabulary.objects import field
from driftloop.controller.vocabulary.plan import Obj


def plan_of(evaluation: Evaluation) -> EvaluationPlan:
    """The plan of the evaluation: that of its evaluate Job, else the recorded one, else a new one."""
    observed, digest = evaluation.observed, evaluation.baseline.digest
    task = evaluate_task_of(evaluation.latest.job) if evaluation.latest else None
    if task is not None:
        return _plan(observed, task.baseline.digest if task.baseline else None, task.looks)
    recorded = observed.status.plan
    if recorded is not None and recorded.baseline == digest:
        return recorded
    suites = observed.spec.evaluation.suites
    return _plan(observed, digest, {suite.name: _number(suite, observed, digest) for suite in suites})


def looks_of(plan: EvaluationPlan) -> dict[str, int]:
    """The numbers of the looks, by suite."""
    return {suite.name: suite.look for suite in plan.suites}


def uses_of(observed: Observed) -> dict[str, int]:
    """The number of other versions, per suite, that were judged by exactly the same items."""
    judged = [version for version in _others(observed) if _is_judged(version)]
    return {
        suite.name: sum(1 for version in judged if _suites_with(version, suite))
        for suite in observed.spec.evaluation.suites
        if suite.digest
    }


def _plan(observed: Observed, baseline: str | None, looks: dict[str, int]) -> EvaluationPlan:
    return EvaluationPlan(
        baseline=baseline,
        suites=[_suite_plan(suite, looks.get(suite.name, 1)) for suite in observed.spec.evaluation.suites],
    )


def _suite_plan(suite: SuiteSpec, number: int) -> SuitePlan:
    alpha = f"{Look(number).alpha:.6f}"
    return SuitePlan(name=suite.name, look=number, alpha=alpha, least_items=least_items(suite, number))


def _number(suite: SuiteSpec, observed: Observed, baseline: str | None) -> int:
    """One more than the highest recorded number, and than the number of looks that older versions may take."""
    highest, before = 0, 0
    for version in _others(observed):
        if not (names := _suites_with(version, suite)):
            continue
        plan = field(version, "status", "plan")
        if plan is not None and field(plan, "baseline") == baseline:
            highest = max([highest, *_recorded(plan, names)])
            before += _age(version) < _age(observed.version)
        elif (plan is None and _looked(version, baseline)) or _may_look(version, observed):
            before += 1
    return max(highest, before) + 1


def _others(observed: Observed) -> Iterator[Obj]:
    return (version for version in observed.versions if version["metadata"]["uid"] != observed.uid)


def _suites_with(version: Obj, suite: SuiteSpec) -> set[str]:
    """The names of the version's suites that have the same items."""
    suites = field(version, "spec", "evaluation", "suites") or []
    key = suite.digest or suite.uri
    return {entry["name"] for entry in suites if (entry.get("digest") or entry.get("uri")) == key}


def _recorded(plan: Obj, names: set[str]) -> list[int]:
    numbers = [field(entry, "look") for entry in field(plan, "suites") or [] if field(entry, "name") in names]
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

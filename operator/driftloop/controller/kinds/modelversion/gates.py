"""The gates: what an evaluation must show before a version is served. Pure.

Each suite must pass a one-sided test. No correction for the number of suites is needed, because a version passes only
if all tests pass (intersection-union test, Berger 1982). Repeated looks at the same items are paid for: all of them
together err in at most 5 %, and each look has its share (contract/looks.py). Missing data is inconclusive, and
inconclusive is never a pass.

A retention suite with totalDelta has a second test: against the anchor (anchor.py), with the same rule and totalDelta
in place of delta. It passes only if both tests pass, which again needs no correction.

Sources of the formulas:
- paired questions and clustered standard errors: Miller 2024, "Adding Error Bars to Evals", arXiv 2411.00640; the
  client computes both, this module judges;
- non-inferiority (retention): the lower bound of the paired difference must be above -delta (Blackwelder 1982);
- superiority (target): the lower bound must be above the required gain;
- the bounds themselves: contract/bounds.py.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from driftloop.api.modelversion import AnchorGate, AnchorStatus, BaselineStatus, Gate, ModelVersionSpec, Verdict
from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import (
    Z_POWER,
    Difference,
    bound_of,
    graded_difference,
    least_items,
    paired_difference,
    planned_items,
    reaches_floor,
    share_bounds,
    z_quantile,
)
from driftloop.contract.looks import Look
from driftloop.contract.result import AnchorResult, ApiCheck, EvaluateResult, SuiteResult
from driftloop.controller.kinds.modelversion.comparison import NoBaseline
from driftloop.controller.kinds.modelversion.measurement import settings_of


@dataclass(frozen=True)
class Anchored:
    """The comparison with the anchor."""

    anchor: AnchorStatus
    looks: Mapping[str, int]  # by suite, number of this look at its items with the anchor; absent: the first


def judge(
    spec: ModelVersionSpec,
    result: EvaluateResult,
    compared: BaselineStatus | NoBaseline,
    uses: Mapping[str, int] | None = None,
    looks: Mapping[str, int] | None = None,
    anchored: Anchored | None = None,
) -> list[Gate]:
    """One gate per check: digest, api, then the suites in the order of the spec.

    `compared` is what the version had to be compared with. `uses` is, per suite, the number of versions that were
    judged before by exactly the same items; `looks` is the number of this look at them (absent: the first).
    `anchored` is the comparison with the anchor, None without one.
    """
    measured = {suite.name: suite for suite in result.suites}
    gates = [_digest_gate(spec, result, baseline_of(compared), anchored), _api_gate(result.api)]
    for suite in spec.evaluation.suites:
        look = Look((looks or {}).get(suite.name, 1))
        gate = _suite_gate(suite, measured.get(suite.name), compared, look)
        if suite.total_delta is not None and gate.verdict != "NotApplicable":
            gate = _with_anchor(gate, suite, measured.get(suite.name), anchored)
        about = {"metric": suite.metric.type, "settings": settings_of(suite, spec.evaluation.max_tokens)}
        counts = {"uses": (uses or {}).get(suite.name, 0) + 1, "look": look.number, "alpha": f"{look.alpha:.6f}"}
        gates.append(gate.model_copy(update=about | counts))
    return gates


def baseline_of(compared: BaselineStatus | NoBaseline) -> BaselineStatus | None:
    """The baseline; None without one."""
    match compared:
        case BaselineStatus() as baseline:
            return baseline
        case NoBaseline():
            return None
        case never:
            assert_never(never)


Judgement = Literal["Approved", "Unproven", "Undecided", "Rejected"]


def verdict(gates: Sequence[Gate]) -> Judgement:
    """The verdict on a version.

    Approved: every gate passed or does not apply, the digest and api gates passed, and a suite passed.
    Unproven: no gate failed, but no suite judged the version.
    Undecided: only the API checks were inconclusive, which may change when they are repeated.
    Rejected: everything else.
    """
    bad = {gate.verdict for gate in gates} - {"Pass", "NotApplicable"}
    passed = {gate.kind for gate in gates if gate.verdict == "Pass"}
    if not bad and {"digest", "api"} <= passed:
        return "Approved" if passed - {"digest", "api"} else "Unproven"
    suites_agree = all(gate.verdict in ("Pass", "NotApplicable") for gate in gates if gate.kind != "api")
    if suites_agree and "digest" in passed and any(g.kind == "api" and g.verdict == "Inconclusive" for g in gates):
        return "Undecided"
    return "Rejected"


def summary(gates: Sequence[Gate]) -> str:
    """`4 of 4 passed`, or the first gate that failed, else the first inconclusive gate. At most 256 characters."""
    bad = next((gate for verdict in ("Fail", "Inconclusive") for gate in gates if gate.verdict == verdict), None)
    if bad is not None:
        return f"{bad.name}: {bad.verdict}: {bad.message}"[:256]
    applied = [gate for gate in gates if gate.verdict == "Pass"]
    rest = len(gates) - len(applied)
    unproven = ", no suite judged it" if verdict(gates) == "Unproven" else ""
    counted = f"{len(applied)} of {len(gates)} passed" + (f", {rest} not applicable" if rest else "") + unproven
    budgets = [f"{gate.name}: {_budget(gate.anchor)}" for gate in gates if gate.anchor]
    return "; ".join([counted, *budgets])[:256]


def _budget(anchor: AnchorGate) -> str:
    return f"at least {anchor.left} of {anchor.total_delta} is left since {anchor.version}"


def _digest_gate(
    spec: ModelVersionSpec, result: EvaluateResult, baseline: BaselineStatus | None, anchored: Anchored | None
) -> Gate:
    if result.candidate_digest != spec.artefact.digest:
        message = f"the pod served {result.candidate_digest}, but the version is {spec.artefact.digest}"
        return Gate(name="digest", kind="digest", verdict="Fail", message=message)
    expected = baseline.digest if baseline else None
    if result.baseline_digest != expected:
        message = f"compared with {result.baseline_digest or 'nothing'}, not {expected or 'nothing'}: evaluate again"
        return Gate(name="digest", kind="digest", verdict="Inconclusive", message=message)
    anchor = anchored.anchor.digest if anchored else None
    if result.anchor_digest != anchor:
        message = f"the anchor was {result.anchor_digest or 'nothing'}, not {anchor or 'nothing'}: evaluate again"
        return Gate(name="digest", kind="digest", verdict="Inconclusive", message=message)
    return Gate(name="digest", kind="digest", verdict="Pass", message="the served model is the version's artefact")


def _api_gate(api: ApiCheck) -> Gate:
    total = api.passed + len(api.failed) + len(api.uncertain)
    if api.failed:
        message = f"{len(api.failed)} of {total} checks failed: {'; '.join(api.failed)}"[:1024]
        return Gate(name="api", kind="api", verdict="Fail", message=message)
    if api.uncertain:
        checks = "; ".join(api.uncertain)
        message = f"{len(api.uncertain)} of {total} checks gave different results when repeated: {checks}"[:1024]
        return Gate(name="api", kind="api", verdict="Inconclusive", message=message)
    if total == 0:
        return Gate(name="api", kind="api", verdict="Inconclusive", message="the API was not checked")
    return Gate(name="api", kind="api", verdict="Pass", message=f"{total} checks passed")


def _suite_gate(
    suite: SuiteSpec, result: SuiteResult | None, compared: BaselineStatus | NoBaseline, look: Look
) -> Gate:
    match compared:
        case NoBaseline(why) if suite.kind != "floor":
            return _unjudged(suite, "NotApplicable", f"nothing to compare with: {why}", result)
        case BaselineStatus() | NoBaseline():
            pass
        case never:
            assert_never(never)
    if result is None:
        return _unjudged(suite, "Inconclusive", "the evaluation has no result of this suite: evaluate again", None)
    if fault := _fault(suite, result, look):
        return _unjudged(suite, "Inconclusive", fault, result)
    return _floor_gate(suite, result, look) if suite.kind == "floor" else _paired_gate(suite, result, look)


def _unjudged(suite: SuiteSpec, verdict: Verdict, message: str, result: SuiteResult | None) -> Gate:
    value = _decimal(result.correct / result.items) if result and 0 <= result.correct <= result.items > 0 else None
    return Gate(
        name=suite.name,
        kind=suite.kind,
        verdict=verdict,
        message=message,
        value=value,
        items=result.items if result else None,
        delta=_decimal(bound_of(suite)),
    )


_INCONSISTENT = "the numbers of the evaluation are inconsistent: evaluate again"
_ROUNDING = 1e-4  # of the client's sums and bounds


def _fault(suite: SuiteSpec, result: SuiteResult, look: Look) -> str | None:
    """Why this result can't be judged; None if it can."""
    if result.items == 0 or result.clusters == 0:
        return "the suite has no items: add some"
    if result.correct > result.items or result.clusters > result.items or not math.isfinite(result.standard_error):
        return _INCONSISTENT
    if suite.kind != "floor" and (fault := _unpaired(suite, result)):
        return fault
    if suite.metric.is_graded and ((result.look or 1) != look.number or not _has_bounds(suite, result)):
        return _INCONSISTENT
    return None


def _unpaired(suite: SuiteSpec, result: SuiteResult) -> str | None:
    """Why this result has no difference from the stable version; None if it has one."""
    gained, lost, error = result.gained, result.lost, result.difference_standard_error
    counted = suite.metric.is_graded or (gained is not None and lost is not None)
    if result.baseline_correct is None or error is None or not counted:
        return "the stable version was not asked these items: evaluate again"
    if result.baseline_correct > result.items or not math.isfinite(error) or error < 0:
        return _INCONSISTENT
    if suite.metric.is_graded or gained is None or lost is None:
        return None
    agree = result.correct - result.baseline_correct == gained - lost and gained + lost <= result.items
    return None if agree else _INCONSISTENT


def _has_bounds(suite: SuiteSpec, result: SuiteResult) -> bool:
    """Whether the bounds of scores between 0 and 1 are present and hold the value that they belong to."""
    if result.lower is None or result.upper is None:
        return False
    value = result.correct / result.items if suite.kind == "floor" else _mean_difference(result)
    return -1 <= result.lower <= value + _ROUNDING and value - _ROUNDING <= result.upper <= 1


def _mean_difference(result: SuiteResult) -> float:
    return (result.correct - (result.baseline_correct or 0)) / result.items


def non_inferiority(difference: Difference, delta: float) -> Verdict:
    """Pass: a loss of `delta` or more is excluded, by enough items or by a clear gain."""
    if difference.upper < -delta:
        return "Fail"
    if difference.excludes_loss(delta):
        return "Pass"
    return "Inconclusive" if difference.detectable > delta else "Fail"


def superiority(difference: Difference, gain: float) -> Verdict:
    """Pass: the gain is certainly above `gain`. Fail: it is certainly not."""
    if difference.lower > gain:
        return "Pass"
    return "Fail" if difference.upper <= gain else "Inconclusive"


def _difference(suite: SuiteSpec, result: SuiteResult, look: Look) -> Difference:
    error, alpha = result.difference_standard_error or 0.0, look.alpha
    if suite.metric.is_graded and result.lower is not None and result.upper is not None:
        bounds = result.lower, result.upper
        return graded_difference(_mean_difference(result), result.clusters, error, bounds, alpha)
    return paired_difference(result.items, result.clusters, result.gained or 0, result.lost or 0, error, alpha)


_STABLE = "the stable version"


def _paired_gate(suite: SuiteSpec, result: SuiteResult, look: Look, against: str = _STABLE) -> Gate:
    difference = _difference(suite, result, look)
    if suite.kind == "target":
        judged, message, needed = _target(suite, result, difference, look)
    else:
        judged, message, needed = _retention(suite, result, difference, look, against)
    next_needed = _next_needed(suite, result, look)
    return Gate(
        name=suite.name,
        kind=suite.kind,
        verdict=judged,
        message=f"{_changes(suite, result, difference)}: {message}{_looks(result, look, next_needed)}{_notes(result)}"[
            :1024
        ],
        value=_decimal(result.correct / result.items),
        baseline=_decimal((result.baseline_correct or 0) / result.items),
        difference=_decimal(difference.value),
        lower=_decimal(difference.lower),
        upper=_decimal(difference.upper),
        items=result.items,
        items_needed=needed,
        next_items_needed=next_needed,
        minimum_detectable_effect=_decimal(difference.detectable) if math.isfinite(difference.detectable) else None,
        delta=_decimal(suite.min_gain if suite.kind == "target" else suite.delta),
        cut=result.cut,
    )


def _with_anchor(gate: Gate, suite: SuiteSpec, result: SuiteResult | None, anchored: Anchored | None) -> Gate:
    """The gate of a suite with totalDelta: it passes only if the loss against the anchor is below totalDelta too."""
    if anchored is None or result is None or result.anchor is None:
        return _both(gate, "Inconclusive", "the anchor was not asked these items: evaluate again", None)
    look = Look(anchored.looks.get(suite.name, 1))
    total = suite.model_copy(update={"delta": suite.total_delta})
    found = _against_anchor(total, result, result.anchor, look)
    own = AnchorGate(
        version=anchored.anchor.version,
        value=found.baseline,
        difference=found.difference,
        lower=found.lower,
        total_delta=_decimal(total.delta),
        left=_decimal(max(0.0, total.delta + float(found.lower))) if found.lower is not None else None,
        items_needed=found.items_needed,
        look=look.number,
        alpha=f"{look.alpha:.6f}",
    )
    return _both(gate, found.verdict, f"against the anchor ({own.version}): {found.message}", own)


def _against_anchor(total: SuiteSpec, result: SuiteResult, anchor: AnchorResult, look: Look) -> Gate:
    """The gate of a suite whose delta is totalDelta, with the anchor in place of the stable version."""
    compared = {
        "baseline_correct": anchor.correct,
        "baseline_cut": None,
        "gained": anchor.gained,
        "lost": anchor.lost,
        "difference_standard_error": anchor.error,
        "lower": anchor.lower,
        "upper": anchor.upper,
        "look": anchor.look,
        "errors": 0,
        "cut": None,
    }
    seen = result.model_copy(update=compared)
    if fault := _fault(total, seen, look):
        return _unjudged(total, "Inconclusive", fault, seen)
    return _paired_gate(total, seen, look, "the anchor")


_WORST: tuple[Verdict, ...] = ("Fail", "Inconclusive", "Pass")


def _both(gate: Gate, verdict: Verdict, message: str, anchor: AnchorGate | None) -> Gate:
    """The gate with the worse of two verdicts, and the message of the worse one first."""
    worse = min(gate.verdict, verdict, key=_WORST.index)
    messages = [gate.message, message] if gate.verdict == worse else [message, gate.message]
    return gate.model_copy(update={"verdict": worse, "message": "; ".join(messages)[:1024], "anchor": anchor})


def _next_needed(suite: SuiteSpec, result: SuiteResult, look: Look) -> int | None:
    """Number of items that the next look needs: for retention as many as `_retention_needs`."""
    if suite.kind == "retention" and suite.delta > 0:
        return _retention_needs(suite, result, look.next)
    return least_items(suite, look.next.number)


def _retention_needs(suite: SuiteSpec, result: SuiteResult, look: Look) -> int:
    """Number of items with which an equal version passes in 80 %, if answers differ as often as in this result."""
    least = least_items(suite, look.number) or 0
    if suite.metric.is_graded:
        detectable = _difference(suite, result, look).detectable
        return max(least, _needed(result.items, detectable, suite.delta) or 0)
    differing = ((result.gained or 0) + (result.lost or 0)) / result.items
    independent = math.sqrt(differing / result.items) or math.inf  # standard error without clusters
    alike = max(1.0, (result.difference_standard_error or 0.0) / independent) ** 2
    return max(least, math.ceil((planned_items(suite.delta, look.number, differing) or 0) * alike))


def _looks(result: SuiteResult, look: Look, next_needed: int | None) -> str:
    """The share of this look at the items, and whether there are enough of them for the next look."""
    text = f"; look {look.number} at these items may err in {look.error}, all looks together in 5 %"
    if next_needed is not None and next_needed > result.clusters:
        text += f"; the next look needs n >= {next_needed}: give it fresh items or a larger suite"
    return text


def _changes(suite: SuiteSpec, result: SuiteResult, difference: Difference) -> str:
    if suite.metric.is_graded:
        return f"mean score {difference.value:+.4f} on {result.items} items"
    return f"{result.gained} gained, {result.lost} lost of {result.items} items"


def _measure(suite: SuiteSpec) -> str:
    return "mean score" if suite.metric.is_graded else "accuracy"


Finding = tuple[Verdict, str, int | None]  # verdict, message, and the number of items that is needed, if one helps


def _target(suite: SuiteSpec, result: SuiteResult, difference: Difference, look: Look) -> Finding:
    judged, gain = superiority(difference, suite.min_gain), _decimal(suite.min_gain)
    if judged == "Pass":
        return judged, f"at {look.certainty} the gain is above {gain}", None
    if _near_zero(result):
        nothing = f"the {_measure(suite)} of neither version is measurably above 0: {_CHECK_SUITE}"
        return "Inconclusive", nothing, None
    if difference.upper >= 0 and (full := _leaves_no_room(suite, result, look)):
        return judged, full, None
    if judged == "Fail":
        return judged, f"at {look.certainty} there is no gain above {gain}", None
    if (shown := difference.value - suite.min_gain) <= 0:
        return judged, f"no gain above {gain} is shown", None
    needed = _needed(result.items, difference.value - difference.lower, shown)
    return judged, f"a gain above {gain} is not certain at {look.certainty}; needs n >= {needed}", needed


def _retention(
    suite: SuiteSpec, result: SuiteResult, difference: Difference, look: Look, against: str = _STABLE
) -> Finding:
    judged, delta = non_inferiority(difference, suite.delta), _decimal(suite.delta)
    if judged != "Fail" and difference.lower <= 0 and (empty := _measures_nothing(suite, result, against)):
        return "Inconclusive", empty, None
    if suite.delta == 0 and judged != "Pass":
        return judged, "delta 0 requires a better version, and no gain is shown", None
    needed = _retention_needs(suite, result, look) if suite.delta > 0 else None
    if judged == "Pass":
        return judged, f"at {look.certainty} the loss is below {delta}", needed
    if judged == "Fail":
        return judged, f"a loss of {delta} or more can't be excluded at {look.certainty}", needed
    least = f"they show only losses of at least {_decimal(difference.detectable)}; needs n >= {needed}"
    return judged, least, needed


_CHECK_SUITE = "the suite measures nothing, check the answers in the evidence, the items and maxTokens"


def _measures_nothing(suite: SuiteSpec, result: SuiteResult, against: str) -> str | None:
    """Why a loss can't be seen: the mean score of the other version is not certainly above delta. None if it is."""
    certain = share_bounds(result.items, result.clusters, result.baseline_correct or 0, 0.0)[0]
    if certain > suite.delta:
        return None
    if suite.metric.is_graded:
        least = f"has a mean score of only {_decimal((result.baseline_correct or 0) / result.items)}"
    else:
        least = f"is right on only {result.baseline_correct} of {result.items} items"
    return f"{against} {least}, so a loss of {_decimal(suite.delta)} could not be seen: {_CHECK_SUITE}"


def _leaves_no_room(suite: SuiteSpec, result: SuiteResult, look: Look) -> str | None:
    """Why not even a version without any mistake could show the gain; None if one could."""
    missed = math.ceil(result.items - (result.baseline_correct or 0))
    best = paired_difference(result.items, result.clusters, missed, 0, 0.0, look.alpha)
    if best.lower > suite.min_gain or suite.metric.type == "judge":  # which has no best answer
        return None
    share = _decimal((result.baseline_correct or 0) / result.items)
    return (
        f"the stable version already has {share}, so no version could show a gain above {_decimal(suite.min_gain)} on "
        f"{result.items} items: use harder items, or kind retention"
    )


def _near_zero(result: SuiteResult) -> bool:
    """Whether no version has a mean score that is certainly above 0."""
    right = max(result.correct, result.baseline_correct or 0)
    return share_bounds(result.items, result.clusters, right, 0.0)[0] <= 0


def _needed(items: int, width: float, target: float) -> int | None:
    """Number of items with which `width`, which falls with the square root of their number, is `target`."""
    return math.ceil(items * (width / target) ** 2) if target > 0 and math.isfinite(width) else None


def _floor_bounds(suite: SuiteSpec, result: SuiteResult, look: Look) -> tuple[float, float]:
    if suite.metric.is_graded and result.lower is not None and result.upper is not None:
        return result.lower, result.upper
    return share_bounds(result.items, result.clusters, result.correct, result.standard_error, look.alpha)


def _floor_gate(suite: SuiteSpec, result: SuiteResult, look: Look) -> Gate:
    share = result.correct / result.items
    lower, upper = _floor_bounds(suite, result, look)
    needed, next_needed, measure = None, _next_needed(suite, result, look), _measure(suite)
    if reaches_floor(lower, suite.minimum):
        judged: Verdict = "Pass"
        message = f"at {look.certainty} the {measure} is at least {_decimal(lower)}"
    elif suite.minimum == 0:
        judged, message = "Inconclusive", f"the {measure} is not measurably above 0: {_CHECK_SUITE}"
    elif share <= suite.minimum:
        judged, message = "Fail", f"{measure} {_decimal(share)}, required is at least {_decimal(suite.minimum)}"
    else:
        judged = "Inconclusive"
        needed = math.ceil(result.items * ((share - lower) / (share - suite.minimum)) ** 2)
        message = (
            f"{measure} {_decimal(share)}, at {look.certainty} only {_decimal(lower)} is certain; needs n >= {needed}"
        )
    return Gate(
        name=suite.name,
        kind="floor",
        verdict=judged,
        message=(message + _looks(result, look, next_needed) + _notes(result))[:1024],
        value=_decimal(share),
        lower=_decimal(lower),
        upper=_decimal(upper),
        items=result.items,
        items_needed=needed,
        next_items_needed=next_needed,
        minimum_detectable_effect=_decimal((share - lower) * (1 + Z_POWER / z_quantile(look.alpha))),
        delta=_decimal(suite.minimum),
        cut=result.cut,
    )


def _notes(result: SuiteResult) -> str:
    """Further facts for the reader of a gate. A cut answer may have been right if it had not been cut."""
    notes = f"; {result.errors} unanswered items count as wrong" if result.errors else ""
    if result.reliability is not None:
        notes += f"; the judge contradicts itself between both orders: bounds are divided by {result.reliability:.2f}"
    if result.cut:
        notes += f"; {result.cut} answers were cut at maxTokens"
    if result.baseline_cut:
        notes += f"; {result.baseline_cut} of the stable version's answers were cut at maxTokens"
    return notes


def _decimal(value: float) -> str:
    """Four decimals, as the API stores shares: floats in a status would not compare equal."""
    return f"{value:.4f}".replace("-0.0000", "0.0000")

"""The gates: what an evaluation must show before a version is served. Pure.

Every suite is required at one-sided 95 %, so no correction for their number is due: a version passes only if each
single test does (intersection-union test, Berger 1982). Unknown is inconclusive, and inconclusive is never a pass.

Sources of the formulas:
- pairing the questions and clustering the standard errors: Miller 2024, "Adding Error Bars to Evals",
  arXiv 2411.00640; the client computes both, this file judges;
- non-inferiority: the lower bound of the paired difference must lie above -delta (Blackwelder 1982);
- minimum detectable effect, (z.95 + z.80) standard errors: Miller 2024;
- standard error of matched shares with half an observation added to each of the four cells: Agresti & Min 2005;
- lower bound of a share: Wilson 1927.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from driftloop.api.base import SuiteSpec
from driftloop.api.modelversion import BaselineStatus, Gate, ModelVersionSpec, Verdict
from driftloop.contract.bounds import Z_CONFIDENCE, Z_POWER, Difference, paired_difference, share_bounds
from driftloop.contract.result import ApiCheck, EvaluateResult, SuiteResult


def judge(
    spec: ModelVersionSpec,
    result: EvaluateResult,
    baseline: BaselineStatus | None,
    no_baseline: str = "the family has no stable version yet",
    uses: Mapping[str, int] | None = None,
) -> list[Gate]:
    """One gate a check, in the order in which they are read: digest, api, then the suites of the spec.

    `baseline` is what the version had to be compared with; without one, `no_baseline` says why there is none.
    `uses` counts, by suite, the versions that were judged by the very same items before.
    """
    measured = {suite.name: suite for suite in result.suites}
    gates = [_digest_gate(spec, result, baseline), _api_gate(result.api)]
    for suite in spec.evaluation.suites:
        gate = _suite_gate(suite, measured.get(suite.name), baseline, no_baseline)
        gates.append(gate.model_copy(update={"uses": (uses or {}).get(suite.name, 0) + 1}))
    return gates


def verdict(gates: Sequence[Gate]) -> Literal["Approved", "Rejected"]:
    """Approved only if every gate passed or does not apply, and the digest and the API were looked at."""
    seen = {gate.kind for gate in gates if gate.verdict == "Pass"}
    good = all(gate.verdict in ("Pass", "NotApplicable") for gate in gates)
    return "Approved" if good and {"digest", "api"} <= seen else "Rejected"


def summary(gates: Sequence[Gate]) -> str:
    """`4 of 4 passed`, or the gate that stood in the way: the first that failed, else the first that could not tell.

    At most 256 characters.
    """
    bad = next((gate for verdict in ("Fail", "Inconclusive") for gate in gates if gate.verdict == verdict), None)
    if bad is not None:
        return f"{bad.name}: {bad.verdict}: {bad.message}"[:256]
    applied = [gate for gate in gates if gate.verdict == "Pass"]
    rest = len(gates) - len(applied)
    return f"{len(applied)} of {len(gates)} passed" + (f", {rest} not applicable" if rest else "")


def _digest_gate(spec: ModelVersionSpec, result: EvaluateResult, baseline: BaselineStatus | None) -> Gate:
    if result.candidate_digest != spec.artefact.digest:
        message = f"the pod served {result.candidate_digest}, the version is {spec.artefact.digest}"
        return Gate(name="digest", kind="digest", verdict="Fail", message=message)
    wanted = baseline.digest if baseline else None
    if result.baseline_digest != wanted:
        message = f"compared with {result.baseline_digest or 'nothing'}, not {wanted or 'nothing'}: evaluate again"
        return Gate(name="digest", kind="digest", verdict="Inconclusive", message=message)
    return Gate(name="digest", kind="digest", verdict="Pass", message="the served model is the version's artefact")


def _api_gate(api: ApiCheck) -> Gate:
    total = api.passed + len(api.failed)
    if api.failed:
        message = f"{len(api.failed)} of {total} checks failed: {'; '.join(api.failed)}"[:1024]
        return Gate(name="api", kind="api", verdict="Fail", message=message)
    if total == 0:
        return Gate(name="api", kind="api", verdict="Inconclusive", message="no check of the API was made")
    return Gate(name="api", kind="api", verdict="Pass", message=f"{total} checks passed")


def _suite_gate(suite: SuiteSpec, result: SuiteResult | None, baseline: BaselineStatus | None, reason: str) -> Gate:
    if suite.kind != "floor" and baseline is None:
        return _unjudged(suite, "NotApplicable", f"nothing to compare with: {reason}", result)
    if result is None:
        return _unjudged(suite, "Inconclusive", "the evaluation says nothing about this suite: evaluate again", None)
    if fault := _fault(suite, result):
        return _unjudged(suite, "Inconclusive", fault, result)
    return _floor_gate(suite, result) if suite.kind == "floor" else _paired_gate(suite, result)


def _unjudged(suite: SuiteSpec, verdict: Verdict, message: str, result: SuiteResult | None) -> Gate:
    value = _decimal(result.correct / result.items) if result and 0 <= result.correct <= result.items > 0 else None
    return Gate(
        name=suite.name,
        kind=suite.kind,
        verdict=verdict,
        message=message,
        value=value,
        items=result.items if result else None,
        delta=_decimal(suite.minimum if suite.kind == "floor" else suite.delta),
    )


def _fault(suite: SuiteSpec, result: SuiteResult) -> str | None:
    """Why these numbers can't be judged; None when they can."""
    if result.items == 0 or result.clusters == 0:
        return "no item was asked: give the suite items"
    if result.correct > result.items or result.clusters > result.items or not math.isfinite(result.standard_error):
        return "the numbers of the evaluation contradict each other: evaluate again"
    if suite.kind == "floor":
        return None
    gained, lost, error = result.gained, result.lost, result.difference_standard_error
    if result.baseline_correct is None or gained is None or lost is None or error is None:
        return "the stable version was not asked these items: evaluate again"
    consistent = result.correct - result.baseline_correct == gained - lost and gained + lost <= result.items
    if not consistent or not math.isfinite(error) or error < 0:
        return "the numbers of the evaluation contradict each other: evaluate again"
    return None


def non_inferiority(difference: Difference, delta: float) -> Verdict:
    """Pass: no loss of `delta` or more, at 95 %, shown by enough items or by being better outright."""
    if difference.upper < -delta:
        return "Fail"
    if difference.lower > 0 or (difference.lower > -delta and difference.detectable <= delta):
        return "Pass"
    return "Inconclusive" if difference.detectable > delta else "Fail"


def _paired_gate(suite: SuiteSpec, result: SuiteResult) -> Gate:
    gained, lost = result.gained or 0, result.lost or 0
    found = paired_difference(result.items, result.clusters, gained, lost, result.difference_standard_error or 0.0)
    judged = non_inferiority(found, suite.delta)
    needed = math.ceil(result.items * (found.detectable / suite.delta) ** 2) if suite.delta > 0 else None
    counted = f"{gained} gained, {lost} lost of {result.items} items"
    if judged == "Pass":
        message = f"{counted}: at 95 % the loss is below {_decimal(suite.delta)}"
    elif judged == "Fail":
        message = f"{counted}: a loss of {_decimal(suite.delta)} or more can't be excluded at 95 %"
    elif needed is None:
        message = f"{counted}: delta 0 asks for a version that is better, and this one isn't shown to be"
    else:
        message = f"{counted}: they show losses of {_decimal(found.detectable)} and up; needs n >= {needed}"
    return Gate(
        name=suite.name,
        kind=suite.kind,
        verdict=judged,
        message=message + _unanswered(result),
        value=_decimal(result.correct / result.items),
        baseline=_decimal((result.baseline_correct or 0) / result.items),
        difference=_decimal(found.value),
        lower=_decimal(found.lower),
        upper=_decimal(found.upper),
        items=result.items,
        items_needed=needed,
        minimum_detectable_effect=_decimal(found.detectable),
        delta=_decimal(suite.delta),
    )


def _floor_gate(suite: SuiteSpec, result: SuiteResult) -> Gate:
    share = result.correct / result.items
    lower, upper = share_bounds(result.items, result.clusters, result.correct, result.standard_error)
    needed = None
    if lower >= suite.minimum:
        judged: Verdict = "Pass"
        message = f"at 95 % the accuracy is at least {_decimal(lower)}"
    elif share <= suite.minimum:
        judged, message = "Fail", f"accuracy {_decimal(share)}, at least {_decimal(suite.minimum)} is demanded"
    else:
        judged = "Inconclusive"
        needed = math.ceil(result.items * ((share - lower) / (share - suite.minimum)) ** 2)
        message = f"accuracy {_decimal(share)}, at 95 % only {_decimal(lower)} is sure; needs n >= {needed}"
    return Gate(
        name=suite.name,
        kind="floor",
        verdict=judged,
        message=message + _unanswered(result),
        value=_decimal(share),
        lower=_decimal(lower),
        upper=_decimal(upper),
        items=result.items,
        items_needed=needed,
        minimum_detectable_effect=_decimal((share - lower) * (1 + Z_POWER / Z_CONFIDENCE)),
        delta=_decimal(suite.minimum),
    )


def _unanswered(result: SuiteResult) -> str:
    return f"; {result.errors} unanswered items count as wrong" if result.errors else ""


def _decimal(value: float) -> str:
    """Four decimals, as the API carries shares: floats in status would never compare equal."""
    return f"{value:.4f}".replace("-0.0000", "0.0000")

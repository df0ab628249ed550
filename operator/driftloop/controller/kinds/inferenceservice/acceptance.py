"""What a version lacks before the service takes it: `spec.acceptance` and the operator's default. Pure.

A version must meet every entry of both. So of two bounds the stricter one applies, `sameEngine` applies if one of them
sets it, and of two ages the smaller one counts. Unknown evidence is missing evidence.

It is asked when a version becomes the candidate. A revision that is stable or candidate already is not asked again. If
the version of such a revision gets another revision by a change of the spec, only its engine is asked.
"""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

from driftloop.api.acceptance import Acceptance, RequiredSuite
from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.api.inferenceservice import WaitingVersion
from driftloop.api.modelversion import Gate
from driftloop.api.suite import SuiteSpec
from driftloop.controller.kinds.engines import engine_hash, resolved
from driftloop.controller.kinds.inferenceservice.observed import Version
from driftloop.controller.kinds.inferenceservice.situation import Situation
from driftloop.controller.vocabulary.conditions import MAX_EVENT, shorten
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.plan import Event
from driftloop.controller.vocabulary.reasons import Reason

_SENTENCE, _SENTENCES = 512, 40  # limits of status.waiting.missing
_SHARE = 4  # decimals of the shares in a status
_AT_WORK = ("stable", "candidate")


@dataclass(frozen=True)
class Bar:
    """What a version must have shown, from both sources."""

    suites: tuple[RequiredSuite, ...]
    same_engine: bool
    max_age: timedelta | None


def bar_of(own: Acceptance | None, default: Acceptance) -> Bar:
    """The service's own requirements and those of the operator, all of which a version must meet."""
    both = [acceptance for acceptance in (own, default) if acceptance is not None]
    suites = [suite for acceptance in both for suite in acceptance.suites]
    ages = [acceptance.max_age_seconds for acceptance in both if acceptance.max_age_seconds is not None]
    return Bar(
        suites=tuple(suite for position, suite in enumerate(suites) if suite not in suites[:position]),
        same_engine=any(acceptance.same_engine for acceptance in both),
        max_age=timedelta(seconds=min(ages)) if ages else None,
    )


def bar_for(situation: Situation) -> Bar:
    """The bar of this service."""
    return bar_of(situation.observed.spec.acceptance, situation.settings.acceptance)


def missing(situation: Situation, version: Version) -> tuple[str, ...]:
    """What the version lacks, one sentence each; empty if the service may take it, or has it already."""
    bar, at_work = bar_for(situation), [r for r in situation.observed.revisions if r.role in _AT_WORK]
    if any(revision.revision == situation.revision_of(version) for revision in at_work):
        return ()
    engine = _engine(situation, version) if bar.same_engine else None
    if any(revision.version == version.name for revision in at_work):
        return (engine,) if engine else ()
    required = [suite for suite in bar.suites if situation.stable is not None or not suite.only_beside_stable]
    suites = [_suite(suite, version.gates) for suite in required]
    age = _age(situation, version, bar.max_age) if bar.max_age is not None else None
    return tuple(shorten(sentence, _SENTENCE) for sentence in (*suites, engine, age) if sentence is not None)


def waiting(version: Version, lacking: tuple[str, ...]) -> WaitingVersion:
    """The status of a version that is not taken."""
    return WaitingVersion(version=version.name, missing=list(lacking[:_SENTENCES]))


def message(held: WaitingVersion) -> str:
    """A sentence about a version that is not taken, with the first thing that it lacks."""
    others = len(held.missing) - 1
    more = f" ({others} more in status.waiting)" if others else ""
    return f"{held.version} is not accepted: {held.missing[0]}{more}"


def announcement(situation: Situation, held: WaitingVersion | None) -> tuple[Event, ...]:
    """The Event about a version that is not taken, once per version."""
    before = situation.observed.status.waiting
    if held is None or (before is not None and before.version == held.version):
        return ()
    return (Event("Warning", Reason.NOT_ACCEPTED, shorten(message(held), MAX_EVENT)),)


def unreachable(situation: Situation, job: FineTuneJobSpec) -> str | None:
    """Why no version of a job could be taken, whatever its gates show; None if one could."""
    bar = bar_for(situation)
    for required in bar.suites:
        fitting = [suite for suite in job.evaluation.suites if _matches(required, suite.kind, suite.name)]
        if not fitting:
            return f"evaluation.suites needs a {_called(required)}"
        if not any(_could_meet(required, suite) for suite in fitting):
            return f"evaluation.suites: {_called(required)} needs {_bounds(required)}"
    engine, settings = job.evaluation.engine, situation.settings
    if bar.same_engine and engine and engine_hash(resolved(engine, settings)) != _engine_of_service(situation):
        return "evaluation.engine differs from spec.engine: remove it"
    return None


def _could_meet(required: RequiredSuite, suite: SuiteSpec) -> bool:
    """Whether a suite with these settings could meet the entry. Bounds of a gain or an accuracy depend on answers."""
    enough = required.min_items is None or suite.max_items >= required.min_items
    return enough and (required.max_delta is None or round(suite.delta, _SHARE) <= round(required.max_delta, _SHARE))


def _bounds(required: RequiredSuite) -> str:
    items = f"maxItems of at least {required.min_items}" if required.min_items is not None else None
    delta = f"delta of at most {required.max_delta}" if required.max_delta is not None else None
    return " and ".join(bound for bound in (items, delta) if bound)


def _suite(required: RequiredSuite, gates: tuple[Gate, ...]) -> str | None:
    """What is missing for one required suite. Of several suites of the kind, the one that lacks least is reported."""
    candidates = [gate for gate in gates if _matches(required, gate.kind, gate.name)]
    if not candidates:
        return f"no {_called(required)} judged it: add one to the evaluation.suites of the job that trains the next one"
    faults = [_faults(required, gate) for gate in candidates]
    best = min(range(len(candidates)), key=lambda position: len(faults[position]))
    if not faults[best]:
        return None
    return f"suite {candidates[best].name} (kind {required.kind}) {', and '.join(faults[best])}"


def _matches(required: RequiredSuite, kind: str, name: str) -> bool:
    return kind == required.kind and required.name in (None, name)


def _called(required: RequiredSuite) -> str:
    return f"suite {required.name} of kind {required.kind}" if required.name else f"suite of kind {required.kind}"


def _faults(required: RequiredSuite, gate: Gate) -> list[str]:
    """What this gate lacks."""
    match gate.verdict:
        case "Pass":
            faults = (_items(required, gate), _loss(required, gate), _gain(required, gate), _floor(required, gate))
            return [fault for fault in faults if fault is not None]
        case "NotApplicable":
            return [
                "had no stable version to compare with: set onlyBesideStable for it, so that a first version need not "
                "pass it, or require a suite of kind floor"
            ]
        case "Fail" | "Inconclusive":
            return [f"has the verdict {gate.verdict}, not Pass: see the gates of the version"]
        case never:
            assert_never(never)


def _items(required: RequiredSuite, gate: Gate) -> str | None:
    if required.min_items is None or (gate.items is not None and gate.items >= required.min_items):
        return None
    has = "an unknown number of" if gate.items is None else gate.items
    return f"has {has} items, {required.min_items} are required: add items"


def _loss(required: RequiredSuite, gate: Gate) -> str | None:
    delta = _share(gate.delta)
    if required.max_delta is None or (delta is not None and delta <= round(required.max_delta, _SHARE)):
        return None
    return f"allows a loss of {gate.delta or 'unknown size'}, at most {required.max_delta} is accepted: lower its delta"


def _gain(required: RequiredSuite, gate: Gate) -> str | None:
    lower = _share(gate.lower)
    if required.min_gain is None or (lower is not None and lower > round(required.min_gain, _SHARE)):
        return None
    shown = f"a gain above {gate.lower}" if gate.lower else "an unknown gain"
    return f"shows {shown}, more than {required.min_gain} is required: train a better version, or add items"


def _floor(required: RequiredSuite, gate: Gate) -> str | None:
    lower = _share(gate.lower)
    if required.minimum is None or (lower is not None and lower >= round(required.minimum, _SHARE)):
        return None
    shown = f"an accuracy of at least {gate.lower}" if gate.lower else "an unknown accuracy"
    return f"shows {shown}, {required.minimum} is required: train a better version, or add items"


def _share(text: str | None) -> float | None:
    """A decimal of a status; None if it is absent or not a number, which is never good enough."""
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _engine_of_service(situation: Situation) -> str:
    return engine_hash(resolved(situation.observed.spec.engine, situation.settings))


def _engine(situation: Situation, version: Version) -> str | None:
    """What is missing if the evaluation ran with another engine than the service's."""
    wanted = _engine_of_service(situation)
    if version.engine == wanted:
        return None
    if version.engine is None:
        return f"the engine of its evaluation is unknown: {_again(situation, version)}"
    advice = "train a version whose evaluation.engine is absent or equal to spec.engine"
    return f"it was evaluated with the engine {version.engine}, and spec.engine is {wanted} (hashes): {advice}"


def _age(situation: Situation, version: Version, largest: timedelta) -> str | None:
    """What is missing if the evaluation is too old."""
    if version.evaluated is None:
        return f"the time of its evaluation is unknown: {_again(situation, version)}"
    age = situation.now - version.evaluated
    if age <= largest:
        return None
    seconds, most = int(age.total_seconds()), int(largest.total_seconds())
    return f"its evaluation is {seconds} s old, maxAgeSeconds is {most}: {_again(situation, version)}"


def _again(situation: Situation, version: Version) -> str:
    """How the version gets new evidence. Only a version that may replace the serving one is evaluated again."""
    if situation.serving is not None and version.age_key <= situation.serving.age_key:
        return "train a newer version"
    return f"to evaluate it again, kubectl annotate mver {version.name} --overwrite {RETRY}=VALUE with a new VALUE"

"""One comparison of a canary: its verdict, and the finding in words. Pure."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from driftloop.api.inferenceservice import Canary
from driftloop.controller.kinds.inferenceservice.latency import p95, slow_answers
from driftloop.controller.kinds.inferenceservice.sequential import ERROR, Bounds, Tally, Verdict, bounds, judge, needed
from driftloop.controller.traffic import Buckets

_WORDS = {"Worse": "worse", "NotWorse": "not worse", "Unclear": "unclear", "NotCompared": "not compared"}


@dataclass(frozen=True)
class Comparison:
    """The verdict of one comparison, and the finding as text for a message."""

    measure: str  # what is compared
    verdict: Verdict | Literal["NotCompared"]
    finding: str
    interval: Bounds | None = None  # candidate minus stable
    margin: float | None = None
    is_required: bool = True  # whether a promotion needs it; a rollback may follow from any comparison

    @property
    def in_words(self) -> str:
        return _WORDS[self.verdict]

    @property
    def interval_in_words(self) -> str | None:
        return f"{percent(self.interval.lower)} to {percent(self.interval.upper)}" if self.interval else None

    @property
    def margin_in_words(self) -> str | None:
        return None if self.margin is None else percent(self.margin)


def compare_share(what: str, stable: Tally, candidate: Tally, margin: float, alarm: float = ERROR) -> Comparison:
    """Whether the candidate's share of bad requests is above stable's share by more than `margin`."""
    counts = (
        f"candidate {candidate.bad:.0f} of {candidate.total:.0f} {what}, stable {stable.bad:.0f} of {stable.total:.0f}"
    )
    if min(stable.total, candidate.total) <= 0:
        return Comparison(what, "Unclear", f"{counts}: nothing is known yet", margin=margin)
    return _compare(_Words(what, counts, "more"), stable, candidate, margin, alarm)


def compare_latency(
    what: str, canary: Canary, stable: Buckets, candidate: Buckets, margin: float, alarm: float = ERROR
) -> Comparison:
    """Whether more than 5 % and the margin of the candidate's answers take longer than the ratio times stable's p95."""
    slow = slow_answers(stable, candidate, canary.max_latency_ratio)
    p95s = f"{what}: candidate {_in_seconds(p95(candidate))}, stable {_in_seconds(p95(stable))}"
    if slow is None:
        return Comparison(what, "Unclear", f"{p95s}: a p95 is unknown", margin=margin)
    more = f"above the normal 5 % take longer than {slow.limit:.4g} s"
    return _compare(_Words(what, p95s, more), slow.stable, slow.candidate, margin, alarm)


@dataclass(frozen=True)
class _Words:
    """The words of a finding. `more`: what the difference of the shares means."""

    measure: str
    figures: str
    more: str


def _compare(words: _Words, stable: Tally, candidate: Tally, margin: float, alarm: float) -> Comparison:
    """The verdict with its reason. Both arms must have requests."""
    verdict, interval = judge(stable, candidate, margin, alarm), bounds(stable, candidate, margin, alarm)
    figures, more = words.figures, words.more
    comparison = Comparison(words.measure, verdict, "", interval, margin)
    limit, certainty = f"margin {percent(margin)}", f"{100 * (1 - alarm):.3g} %"
    if verdict == "NotWorse":
        return replace(comparison, finding=f"{figures}: at 95 % at most {percent(interval.upper)} {more}; {limit}")
    if verdict == "Worse":
        finding = f"{figures}: at {certainty} at least {percent(interval.lower)} {more}; {limit}"
        return replace(comparison, finding=finding)
    missing = needed(stable, candidate, margin, alarm)
    wait = (
        f"about {missing} more on the quieter arm are needed"
        if missing
        else "too close to the margin to estimate how many more are needed"
    )
    between = f"between {percent(interval.lower)} and {percent(interval.upper)} {more}"
    return replace(comparison, finding=f"{figures}: at 95 % {between}; {limit}: {wait}")


def percent(share: float) -> str:
    """A share in percent."""
    return f"{100 * share:.1f} %"


def _in_seconds(value: float | None) -> str:
    if value is None:
        return "none"
    return f"{value:.4g} s" if math.isfinite(value) else "above the largest bucket"

"""How the answers of two arms compare: their first token, their lengths and their endings. Pure.

The proxy counts them so that no client has too large a share. Each comparison counts answers, so one very long answer
weighs as much as a short one.
"""

from collections.abc import Callable, Iterator

from driftloop.api.inferenceservice import Canary
from driftloop.controller.kinds.inferenceservice.comparison import Comparison, compare_latency, compare_share
from driftloop.controller.kinds.inferenceservice.latency import observations
from driftloop.controller.kinds.inferenceservice.sequential import ERROR, Tally
from driftloop.controller.traffic import Answers, Buckets

LENGTH_RATIO = 1.5  # an answer of that many times stable's median is a long one
TESTS = 6  # first token, longer, shorter, cut off, empty, refused


def compare_answers(
    canary: Canary, stable: Answers | None, candidate: Answers | None, alarm: float = ERROR
) -> Iterator[Comparison]:
    """The comparisons that are not switched off by a margin of 1.

    `alarm`: the probability with which one of them rolls back a candidate that is within all margins.
    """
    if stable is None:
        yield Comparison(
            "answers", "NotCompared", "stable's pods do not count answers: an earlier release created them"
        )
        return
    if candidate is None:
        yield Comparison("answers", "Unclear", "the candidate's pods do not count answers, and stable's do")
        return
    each = alarm / TESTS
    yield from _first_token(canary, stable.first_token, candidate.first_token, each)
    yield from _lengths(canary, stable.tokens, candidate.tokens, each)
    for what, ending, margin in (
        ("cut off at their limit of tokens", "cut", canary.max_cut_off_increase),
        ("empty", "empty", canary.max_empty_increase),
        ("refused by the model", "refused", canary.max_model_refusal_increase),
    ):
        if margin < 1:
            yield _endings(what, ending, canary.min_requests, stable, candidate, margin, each)


def _first_token(canary: Canary, stable: Buckets, candidate: Buckets, alarm: float) -> Iterator[Comparison]:
    what, margin = "p95 until the first token", canary.max_first_token_increase
    fewest = min(observations(stable), observations(candidate))
    if margin >= 1:
        return
    if fewest < canary.min_requests:
        yield _too_few(what, fewest, canary.min_requests, "streams")
        return
    yield compare_latency(what, canary, stable, candidate, margin, alarm)


def _lengths(canary: Canary, stable: Buckets, candidate: Buckets, alarm: float) -> Iterator[Comparison]:
    margin = canary.max_length_change
    fewest = min(observations(stable), observations(candidate))
    if margin >= 1:
        return
    if fewest < canary.min_requests:
        yield _too_few("length", fewest, canary.min_requests, "answers with a known length")
        return
    short, long = limits(stable)
    for what, count in (
        (f"longer than {long:.0f} tokens", _longer_than(long)),
        (f"of at most {short:.0f} tokens", _up_to(short)),
    ):
        normal, new = (Tally(count(buckets), observations(buckets)) for buckets in (stable, candidate))
        yield compare_share(what, normal, new, margin, alarm)


def _endings(
    what: str, ending: str, least: int, stable: Answers, candidate: Answers, margin: float, alarm: float
) -> Comparison:
    fewest = min(stable.total, candidate.total)
    if fewest < least:
        finding = f"{what}: {fewest:.0f} of {least} complete answers on the quieter arm"
        return Comparison(what, "Unclear", finding, margin=margin)
    normal, new = (Tally(answers.endings.get(ending, 0.0), answers.total) for answers in (stable, candidate))
    return compare_share(what, normal, new, margin, alarm)


def _too_few(what: str, fewest: float, least: int, of: str) -> Comparison:
    return Comparison(what, "NotCompared", f"{what}: {fewest:.0f} of {least} {of} on the quieter arm")


def limits(buckets: Buckets) -> tuple[float, float]:
    """The longest short answer and the longest one that is not long, in tokens, from stable's median.

    Both are bounds of buckets, so that answers are counted exactly and not interpolated. The first is 0 if no answer
    can be short.

    >>> limits({1.0: 0, 2.0: 0, 3.0: 4, 4.0: 9, 5.0: 10, 6.0: 10, 8.0: 10})
    (2.0, 6.0)
    """
    ordered = sorted(buckets)
    half = observations(buckets) / 2
    upper = next(bound for bound in ordered if buckets[bound] >= half)
    lower = max((bound for bound in ordered if bound < upper), default=0.0)
    long = next((bound for bound in ordered if bound >= LENGTH_RATIO * upper), ordered[-1])
    short = max((bound for bound in ordered if bound <= (lower + 1) / LENGTH_RATIO), default=0.0)
    return short, long


def _longer_than(limit: float) -> Callable[[Buckets], float]:
    return lambda buckets: observations(buckets) - buckets.get(limit, 0.0)


def _up_to(limit: float) -> Callable[[Buckets], float]:
    return lambda buckets: buckets.get(limit, 0.0)

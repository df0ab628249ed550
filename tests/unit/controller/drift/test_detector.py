import math
import random
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from driftloop.contract.names import NOVELTY, SIGNALS, UNANSWERED
from driftloop.controller.drift import detector
from driftloop.controller.drift.detector import (
    FEEDBACK,
    MONTH,
    Counters,
    Reference,
    Window,
    bets,
    log_evidence,
    normal_scores,
    signal_evidence,
    smoothed,
    threshold,
    update,
)

TOLERANCE = 0.02
LIMIT = threshold(0.01)
CAP = 2 * LIMIT
DECILES = Reference(3000, (0.1,) * 10)
REFERENCES = {"surprisal": DECILES, FEEDBACK: Reference(300, (0.9, 0.1))}

masses = st.lists(st.floats(0, 1), min_size=2, max_size=12).filter(lambda m: sum(m) > 0.1)
references = st.builds(
    lambda rows, found: Reference(rows, tuple(mass / sum(found) for mass in found)), st.floats(1, 1e6), masses
)
signals = st.sampled_from([*SIGNALS, FEEDBACK])


def after(counts: Sequence[float], times: int = 1, signal: str = "surprisal") -> dict[str, tuple[float, ...]]:
    state: dict[str, tuple[float, ...]] = {}
    for _ in range(times):
        state = update(state, {signal: counts}, REFERENCES, TOLERANCE, CAP)
    return state


def shifted(share: float) -> list[float]:
    """A hundred requests, of which `share` of those in the lower half went over to the upper half."""
    return [10 * (1 - share)] * 5 + [10 * (1 + share)] * 5


@given(references)
def test_scores_have_mean_0_and_variance_1_under_the_reference_and_rise(reference: Reference) -> None:
    scores = normal_scores(reference)
    assert scores is not None
    weights = smoothed(reference)
    assert sum(w * s for w, s in zip(weights, scores, strict=True)) == pytest.approx(0, abs=1e-6)
    assert sum(w * s * s for w, s in zip(weights, scores, strict=True)) == pytest.approx(1)
    assert scores == sorted(scores)


@given(signals, references, st.floats(0, 0.2), st.floats(0, 1), st.data())
def test_no_bet_can_be_expected_to_win_while_the_shift_is_within_the_tolerance(
    signal: str, reference: Reference, tolerance: float, part: float, data: st.DataObject
) -> None:
    """The mean factor is at most 1 under every distribution whose mean score is within what is allowed."""
    scores = normal_scores(reference)
    assert scores is not None
    allowed = detector.allowed_shift(scores, reference, tolerance)
    drawn = data.draw(st.lists(st.floats(0, 1), min_size=len(scores), max_size=len(scores)).filter(sum))
    other = [mass / max(drawn) for mass in drawn]  # subnormal masses would lose their digits in the products below
    mean = sum(w * s for w, s in zip(other, scores, strict=True)) / sum(other)
    scale = min(1.0, allowed / abs(mean)) if mean else 1.0  # mixed with the reference until it is allowed
    base = smoothed(reference)
    mixed = [scale * o / sum(other) + (1 - scale) * b for o, b in zip(other, base, strict=True)]
    for table in bets(signal, reference, tolerance):
        assert sum(w * math.exp(f) for w, f in zip(mixed, table, strict=True)) <= 1 + 1e-9


@given(st.floats(0.001, 1000), st.integers(1, 300))
def test_traffic_like_the_reference_never_raises_an_alarm(size: float, looks: int) -> None:
    state = after([size] * 10, looks)
    assert log_evidence(state) <= math.log(10 * size * looks + 1) < LIMIT or size * looks > MONTH


@given(st.floats(0.15, 0.9), st.floats(0.01, 0.1))
def test_evidence_rises_with_the_shift(share: float, more: float) -> None:
    """Up to the bound of a look, where all that is left is the bets on the other side."""
    assert log_evidence(after(shifted(share + more), 3)) >= log_evidence(after(shifted(share), 3)) - 1e-3


@pytest.mark.parametrize("turn", [list, lambda counts: list(reversed(counts))])
def test_a_lasting_shift_raises_an_alarm_in_either_direction(turn: type[list[float]]) -> None:
    assert log_evidence(after(turn(shifted(0.5)), 12)) >= LIMIT


def test_more_bad_ratings_raise_an_alarm_and_more_good_ones_never_do() -> None:
    assert log_evidence(after((1, 9), 12, FEEDBACK)) >= LIMIT
    assert log_evidence(after((100, 0), 1000, FEEDBACK)) < LIMIT / 2


@given(st.sampled_from([math.nan, math.inf, -math.inf, -1.0]), st.integers(0, 9), st.integers(0, 3))
def test_a_count_that_is_no_count_is_missing_and_never_evidence(bad: float, place: int, looks: int) -> None:
    before = after(shifted(0.4), looks)
    counts = shifted(0.9)
    counts[place] = bad
    assert update(before, {"surprisal": counts}, REFERENCES, TOLERANCE, CAP) == before
    assert Counters(datetime.now(UTC), {"surprisal": counts}).requests == 0


@given(st.sampled_from([{}, {"surprisal": ()}, {"surprisal": (0,) * 10}, {"surprisal": (5, 5)}, {"oov": (9, 9)}]))
def test_nothing_counted_changes_nothing(bins: dict[str, Sequence[float]]) -> None:
    before = after(shifted(0.4), 3)
    assert update(before, bins, REFERENCES, TOLERANCE, CAP) == before


@given(references, st.lists(st.lists(st.floats(0, 1e6), min_size=2, max_size=12), max_size=20), signals)
def test_evidence_is_always_a_number_below_the_cap(
    reference: Reference, windows: list[list[float]], signal: str
) -> None:
    state: dict[str, tuple[float, ...]] = {}
    for window in windows:
        state = update(state, {signal: window}, {signal: reference}, TOLERANCE, CAP)
    assert not math.isnan(log_evidence(state))
    assert log_evidence(state) <= CAP
    assert all(not math.isnan(value) for values in state.values() for value in values)


@given(st.integers(10, 10_000), st.integers(0, 9))
def test_a_burst_of_like_requests_counts_for_a_few(burst: int, bin_: int) -> None:
    """One user sends the same up to ten thousand times in a window in which ten requests are usual."""
    state = after([1.0] * 10, 50)
    counts = [0.0] * 10
    counts[bin_] = float(burst)
    state = update(state, {"surprisal": counts}, REFERENCES, TOLERANCE, CAP, Window(expected=10))
    assert log_evidence(state) < LIMIT * 0.9


@given(st.lists(st.floats(0, 100), min_size=10, max_size=10), st.floats(0, 100), st.floats(0, 100))
def test_believing_less_never_adds_evidence(counts: list[float], expected: float, more: float) -> None:
    before = after([1.0] * 10, 5)
    less = update(before, {"surprisal": counts}, REFERENCES, TOLERANCE, CAP, Window(expected))
    full = update(before, {"surprisal": counts}, REFERENCES, TOLERANCE, CAP, Window(expected + more))
    assert log_evidence(less) <= log_evidence(full) + 1e-9


def test_evidence_falls_again_when_the_traffic_is_back() -> None:
    state = after(shifted(0.9), 50)
    assert log_evidence(state) >= LIMIT
    for _ in range(200):
        state = update(state, {"surprisal": [10.0] * 10}, REFERENCES, TOLERANCE, CAP)
    assert log_evidence(state) < LIMIT / 3


def test_a_signal_without_evidence_counts_as_one_that_says_no() -> None:
    state = after(shifted(0.4), 3)
    assert log_evidence(state) == pytest.approx(signal_evidence(state, "surprisal") - math.log(4))


@given(st.floats(1e-6, 1), st.floats(1e-6, 1))
def test_a_smaller_budget_needs_more_evidence(one: float, other: float) -> None:
    assume(one < other)
    assert threshold(one) >= threshold(other)


def test_a_budget_of_zero_never_raises_an_alarm() -> None:
    assert threshold(0.0) == math.inf


def test_a_month_of_independent_requests_raises_no_alarm_and_a_shift_of_03_is_seen_in_500() -> None:
    """The small form of bench/drift_false_alarms.py, with its seed."""
    rng = random.Random(5)
    normal = [-1.2816, -0.8416, -0.5244, -0.2533, 0.0, 0.2533, 0.5244, 0.8416, 1.2816]

    def window(size: int, shift: float) -> list[float]:
        counts = [0.0] * 10
        for _ in range(size):
            counts[sum(rng.gauss(shift, 1) > edge for edge in normal)] += 1
        return counts

    state: dict[str, tuple[float, ...]] = {}
    for _ in range(MONTH // 40):
        state = update(state, {"surprisal": window(40, 0.0)}, REFERENCES, TOLERANCE, CAP)
        assert log_evidence(state) < LIMIT
    delays = []
    for _ in range(21):
        shifted_state, requests = dict(state), 0
        while log_evidence(shifted_state) < LIMIT:
            shifted_state = update(shifted_state, {"surprisal": window(10, 0.3)}, REFERENCES, TOLERANCE, CAP)
            requests += 10
            assert requests < 5000
        delays.append(requests)
    assert sorted(delays)[10] <= 500


def test_a_version_without_novelty_needs_no_more_evidence_in_the_other_signals() -> None:
    state = {"surprisal": (6.0,) * 6}
    assert log_evidence(state) == pytest.approx(6.0 - math.log(4))
    assert log_evidence(state | {NOVELTY: (-math.inf,) * 6}) == pytest.approx(6.0 - math.log(5))


@pytest.mark.parametrize("signal", [UNANSWERED, FEEDBACK])
def test_fewer_refusals_or_bad_ratings_are_no_drift(signal: str) -> None:
    references = {signal: Reference(3000, (0.8, 0.2))}
    better = worse = dict[str, tuple[float, ...]]()
    for _ in range(20):
        better = update(better, {signal: (100, 0)}, references, TOLERANCE, CAP)
        worse = update(worse, {signal: (60, 40)}, references, TOLERANCE, CAP)
    assert signal_evidence(better, signal) < 0
    assert signal_evidence(worse, signal) >= LIMIT

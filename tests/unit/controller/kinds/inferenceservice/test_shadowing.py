"""What the pairs of a shadow lead to."""

from typing import Any

import pytest

from driftloop.api.inferenceservice import Canary, Shadow
from driftloop.controller.kinds.inferenceservice.shadowing import Shadowing, analyse_shadow
from driftloop.controller.traffic import ShadowCounts
from driftloop.controller.vocabulary.conditions import timestamp
from unit.controller.kinds.inferenceservice.builders import NOW, ago

LIMITS = Shadowing(Shadow(requests=100, max_seconds=600), Canary())


def measure(candidate: float = 0, stable: float = 0, total: float = 400) -> dict[str, float]:
    return {"candidate": candidate, "stable": stable, "neither": total - candidate - stable}


def counts(**measures: Any) -> ShadowCounts:
    return ShadowCounts({"failed": measure(), "slow": measure(), "length": measure()} | measures)


def verdict(found: ShadowCounts | None, seconds: float = 60) -> str | None:
    return analyse_shadow(LIMITS, found, ago(seconds), NOW).verdict


def test_an_equal_candidate_passes() -> None:
    found = analyse_shadow(LIMITS, counts(answer={"equal": 30, "different": 10}), ago(60), NOW)
    assert found.verdict == "Pass"
    assert (found.pairs, found.progress, found.equal_answers) == (400, "100/100", "30 of 40")
    assert [m.verdict for m in found.measures] == ["not worse"] * 4
    assert found.looked is None


@pytest.mark.parametrize(
    ("worse", "name"),
    [
        ({"failed": measure(100)}, "failed"),
        ({"slow": measure(200)}, "1.5 times slower per token"),
        ({"length": measure(200)}, "1.5 times longer"),
        ({"length": measure(stable=200)}, "1.5 times shorter"),
    ],
)
def test_a_worse_one_is_rolled_back_and_the_measure_is_named(worse: dict[str, Any], name: str) -> None:
    found = analyse_shadow(LIMITS, counts(**worse), ago(60), NOW)
    assert found.verdict == "RollBack"
    assert found.message is not None
    assert found.message.startswith(f"{name}: in 400 pairs only the candidate")
    assert [m.name for m in found.measures if m.verdict == "worse"] == [name]


def test_one_that_fails_always_goes_before_there_are_enough_pairs() -> None:
    assert verdict(ShadowCounts({"failed": measure(30, 0, 30)})) == "RollBack"


@pytest.mark.parametrize(
    "few",
    [
        None,  # no metrics
        ShadowCounts({}),
        ShadowCounts({"failed": measure(total=99)}, {"busy": 400}),
        counts(failed=measure(18)),  # too close to the margin
    ],
)
def test_what_can_not_be_said_waits_and_pauses(few: ShadowCounts | None) -> None:
    assert verdict(few) == "Running"
    paused = analyse_shadow(LIMITS, few, ago(600), NOW)
    assert (paused.verdict, paused.looked) == ("Paused", timestamp(NOW))


def test_short_answers_have_no_time_per_token_and_that_is_shown() -> None:
    found = analyse_shadow(LIMITS, counts(slow=measure(total=3)), ago(60), NOW)
    assert found.verdict == "Pass"
    assert found.measures[1].message == "1.5 times slower per token: 3 of 100 pairs of longer answers"


def test_dropped_copies_are_shown() -> None:
    found = analyse_shadow(LIMITS, ShadowCounts({"failed": measure(total=9)}, {"busy": 4, "long": 0}), ago(60), NOW)
    assert found.dropped == {"busy": 4}
    assert found.message == "9 of 100 pairs, 4 copies were dropped"

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from types import MappingProxyType

import pytest

from driftloop.api.inferenceservice import Drift, DriftStatus
from driftloop.controller.drift.detector import FEEDBACK, Counters
from driftloop.controller.drift.watch import GROWTH, health, watch

START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = Drift(baseline_requests=300, baseline_minimum_hours=0, minimum_duration_minutes=0, tolerance=0.02)
FLAT, HIGH = (10.0,) * 10, (0.0,) * 5 + (20.0,) * 5
PROFILE = {"surprisal": (0.1,) * 10}
LONG = {"answerLength": HIGH}


class Service:
    """A version that is looked at every ten seconds, a hundred requests a look."""

    def __init__(self, spec: Drift = SPEC, version: str = "v1", status: DriftStatus | None = None) -> None:
        self.spec, self.version, self.now = spec, version, START
        self.status = watch(status or DriftStatus(), version, None, spec, START)

    def look(
        self,
        surprisal: tuple[float, ...] = FLAT,
        ratings: tuple[float, float] = (27, 3),
        times: int = 1,
        others: Mapping[str, tuple[float, ...]] = MappingProxyType({}),
    ) -> DriftStatus:
        for _ in range(times):
            self.now += timedelta(seconds=10)
            bins = {"surprisal": surprisal, FEEDBACK: ratings} | dict(others)
            counters = Counters(self.now, bins, reference=PROFILE, reference_rows=3000)
            self.status = watch(self.status, self.version, counters, self.spec, self.now)
        return self.status


def test_the_first_requests_become_the_reference() -> None:
    service = Service()
    assert service.look(HIGH, times=3).message == "compared with the first 300 requests"
    assert not service.look(HIGH, times=100).alarm
    assert service.look(FLAT, times=30).alarm


def test_while_the_baseline_is_collected_text_is_not_judged() -> None:
    status = Service(SPEC.model_copy(update={"baseline_requests": 100_000})).look(HIGH, times=300)
    assert not status.alarm
    assert status.requests == 0
    assert status.message == "learning what is normal: 30000/100000 requests"


@pytest.mark.parametrize(
    ("ratings", "told", "says"),
    [
        ((0, 0), "Unknown", "; health unknown: 0 of 10 ratings"),
        ((1, 1), "Unknown", "; health unknown: 6 of 10 ratings"),
        ((9, 1), "Good", ""),
    ],
)
def test_traffic_unlike_the_training_data_is_no_drift_whatever_its_ratings(
    ratings: tuple[float, float], told: str, says: str
) -> None:
    """Without ratings, or with 1 % of them, it was compared with the training data, and an alarm after 700 requests."""
    service = Service()
    status = service.look(HIGH, ratings, times=3)
    assert status.health == told
    assert status.message == "compared with the first 300 requests" + says
    assert float(status.training_distance["surprisal"]) == pytest.approx(0.8, abs=0.05)
    assert not service.look(HIGH, (0, 0), times=300).alarm
    assert service.look(FLAT, (0, 0), times=30).alarm


def test_a_baseline_of_bad_ratings_is_told_and_raises_its_own_alarm() -> None:
    status = Service().look(HIGH, (1, 5), times=30)
    assert (status.health, status.alarm, status.first_baseline) == ("Bad", True, [])
    assert status.message is not None
    assert status.message.startswith("drift: 83 % of the ratings are bad since 2026-01-01T00:00:40Z (2600 requests); ")


def test_health_becomes_known_with_the_first_ratings_that_come() -> None:
    """The text's baseline is whole and full by then; the ratings' isn't."""
    service = Service()
    assert service.look(FLAT, (0, 0), times=100).health == "Unknown"
    status = service.look(FLAT, (9, 1), times=3)
    assert status.health == "Good"
    assert service.look(FLAT, (2, 8), times=30).alarm


def test_the_baseline_has_its_least_time() -> None:
    """At 30 requests per second 300 are ten seconds: the next hour of the day was drift."""
    service = Service(SPEC.model_copy(update={"baseline_minimum_hours": 0.5}))
    status = service.look(HIGH, times=100)
    assert status.message == "learning what is normal: 0.28 of 0.5 hours"
    assert status.requests == 0
    status = service.look(FLAT, times=80)
    assert status.message == "compared with the first 18000 requests"
    assert not service.look((4.4,) * 5 + (15.6,) * 5, times=30).alarm  # the mean of that half hour
    few = Service(SPEC.model_copy(update={"baseline_minimum_hours": 0.5, "baseline_requests": 10_000}))
    assert few.look(times=6).message == "learning what is normal: 600/10000 requests, 0.017 of 0.5 hours"


def test_the_least_time_begins_with_the_first_request() -> None:
    """A version was promoted on Friday evening, and Monday's first five minutes were all that was normal."""
    service = Service(SPEC.model_copy(update={"baseline_minimum_hours": 0.5}))
    service.look((0.0,) * 10, (0, 0), times=360)
    assert service.look(HIGH, times=6).message == "learning what is normal: 0.017 of 0.5 hours"


def test_the_distance_from_the_training_data_is_kept_while_the_profile_is_not_read() -> None:
    service = Service()
    known = service.look(HIGH, times=3).training_distance
    counters = Counters(service.now + timedelta(seconds=10), {"surprisal": HIGH})
    assert watch(service.status, "v1", counters, SPEC, service.now).training_distance == known != {}


def test_mostly_bad_ratings_raise_an_alarm_without_any_baseline() -> None:
    service = Service(SPEC.model_copy(update={"baseline_requests": 100_000}))
    status = service.look(FLAT, (1, 29), times=10)
    assert status.alarm
    assert status.message is not None
    assert status.message.startswith("drift: 97 % of the ratings are bad since 2026-01-01T00:00:00Z")


def test_a_change_is_dated_from_when_evidence_began_to_rise() -> None:
    service = Service()
    service.look(times=60)
    began = service.now
    while not service.look((4.0,) * 5 + (16.0,) * 5).alarm:
        assert service.now < began + timedelta(minutes=10)
    assert service.status.change_point is not None
    dated = datetime.fromisoformat(service.status.change_point)
    assert began - timedelta(seconds=10) <= dated < service.now


def test_an_alarm_says_what_changed_by_how_much_and_since_when() -> None:
    service = Service()
    service.look(times=60)
    status = service.look((4.0,) * 5 + (16.0,) * 5, times=10)
    assert status.alarm
    shift, number = float(status.shift["surprisal"]), sum(status.changed[0].counts)
    assert shift == pytest.approx(0.6 * 0.8, abs=0.02)  # 60 % more of the requests on one side of the median
    assert status.message == (
        f"drift: surprisal rose by {shift:.2f} standard deviations since {status.change_point} ({number} requests); "
        "compared with the first 4800 requests"
    )
    calm = service.look(times=600)
    assert (calm.alarm, calm.changed, calm.shift) == (False, [], {})


def test_no_figures_change_nothing() -> None:
    service = Service()
    before = service.look(times=10)
    assert watch(before, "v1", None, SPEC, service.now) == before


def test_another_version_starts_anew_and_keeps_the_first_baseline_for_the_long_view() -> None:
    service = Service()
    service.look(times=5)
    alarmed = service.look(HIGH, times=30)
    assert alarmed.alarm
    fresh = watch(alarmed, "v2", None, SPEC, service.now)
    assert not fresh.alarm
    assert fresh.evidence == {}
    assert fresh.baseline == []
    assert fresh.first_baseline == alarmed.first_baseline != []
    assert not Service(version="v2", status=alarmed).look(HIGH, times=100).alarm


def rows(status: DriftStatus) -> int:
    return max(sum(signal.counts) for signal in status.baseline)


def test_the_baseline_grows_block_by_block_while_evidence_is_at_rest() -> None:
    service = Service()
    assert rows(service.look(times=5)) == 300  # the block has not ended
    assert rows(service.look()) == 600  # it is as large as the baseline
    assert rows(service.look(times=354)) == 19_200
    assert rows(service.look()) == 36_000  # the hour is over
    service = Service()
    service.look(times=4)
    assert rows(service.look(HIGH, times=20)) <= 600
    assert service.status.alarm


def test_a_block_in_which_evidence_rose_is_forgotten() -> None:
    service = Service()
    before = rows(service.look(times=361))
    service.look(times=100)
    while not service.look(HIGH).alarm:
        pass
    assert rows(service.look(HIGH, times=600)) == before


def test_the_baseline_stops_to_grow_after_four_weeks() -> None:
    service = Service()
    service.look(times=361)
    service.now += GROWTH
    service.look()
    before = rows(service.look(times=361))
    assert rows(service.look(times=400)) == before


def test_a_status_of_an_older_release_begins_a_new_reference() -> None:
    """It has a baseline and no hours: a swing of the day was drift."""
    service = Service()
    service.look(times=5)
    old = service.look(HIGH, times=30).model_copy(update={"learned": None})
    assert old.alarm
    fresh = watch(DriftStatus.model_validate(old.dump()), "v1", None, SPEC, service.now)
    assert (fresh.alarm, fresh.baseline, fresh.evidence) == (False, [], {})
    assert fresh.first_baseline == old.first_baseline
    assert fresh.last_alarm == old.last_alarm
    assert not Service(status=old).look(HIGH, times=100).alarm


def test_a_swing_of_the_day_is_no_drift_once_the_day_was_seen() -> None:
    """At ten requests per second, with a swing of 0.25 standard deviations, of which one day is seen."""
    service = Service(SPEC.model_copy(update={"baseline_minimum_hours": 24.0}))
    morning, evening = (11.0,) * 5 + (9.0,) * 5, (9.0,) * 5 + (11.0,) * 5
    for _ in range(3):
        for half in (morning, evening):
            assert not service.look(half, times=4320).alarm
    assert service.look((6.0,) * 5 + (14.0,) * 5, times=360).alarm


def test_what_lasts_less_than_its_minimum_raises_no_alarm() -> None:
    service = Service(SPEC.model_copy(update={"minimum_duration_minutes": 15.0}))
    service.look(times=30)
    assert not service.look(HIGH, times=60).alarm  # ten minutes
    assert service.look(HIGH, times=60).alarm


def test_the_first_baseline_is_the_first_one() -> None:
    service = Service()
    first = service.look(times=3).first_baseline
    assert sum(first[0].counts) == 300
    assert service.look(times=20).first_baseline == first


def test_a_status_survives_the_api() -> None:
    service = Service()
    status = service.look(times=20)
    assert DriftStatus.model_validate(status.dump()) == status
    assert all(len(value) < 1024 for value in status.evidence.values())


@pytest.mark.parametrize(
    ("ratings", "expected"),
    [
        ((), "Unknown"),
        ((9, 0), "Unknown"),
        ((0, 9), "Unknown"),
        ((10, 0), "Good"),
        ((50, 50), "Good"),
        ((49, 51), "Bad"),
    ],
)
def test_health_is_known_and_mostly_good(ratings: tuple[int, ...], expected: str) -> None:
    assert health({FEEDBACK: ratings}) == expected


def test_answers_are_watched_if_the_service_wants_it() -> None:
    usual, refusing = (
        {"answerLength": FLAT, "unanswered": (98.0, 2.0)},
        {"answerLength": FLAT, "unanswered": (70.0, 30.0)},
    )
    alarms = {}
    for answers in (True, False):
        service = Service(SPEC.model_copy(update={"answers": answers}))
        assert not service.look(times=30, others=usual).alarm
        alarms[answers] = service.look(times=30, others=refusing)
    assert alarms[True].alarm
    assert "the share of refused or empty answers rose by" in str(alarms[True].message)
    assert not alarms[False].alarm
    assert not set(alarms[False].evidence) & {"answerLength", "unanswered"}


def test_a_signal_that_begins_late_is_compared_when_it_has_a_baseline_of_its_own() -> None:
    service = Service(SPEC.model_copy(update={"answers": True}))
    service.look(times=358)
    assert "answerLength" not in service.look(times=2, others=LONG).evidence
    assert "answerLength" not in service.look(times=10, others=LONG).evidence, "from another hour, but too few"
    assert "answerLength" in service.look(times=400, others=LONG).evidence

"""Times in logs."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from driftloop.cli.detecting.moments import moment, nearest_past
from driftloop.cli.detecting.requests import BadLine

TIMES = st.datetimes(datetime(2000, 1, 2), datetime(2199, 1, 1)).map(lambda at: at.replace(tzinfo=UTC))


@given(TIMES, st.sampled_from([1, 10**3, 10**6, 10**9]))
@example(datetime(2198, 12, 31, 23, 59, 59, tzinfo=UTC), 10**9)
def test_numbers_are_read_in_every_unit(at: datetime, unit: int) -> None:
    found = moment(int(at.timestamp()) * unit)
    assert found == at.replace(microsecond=0)
    assert moment(str(int(at.timestamp()) * unit)) == found  # OTLP writes them as text


@given(TIMES)
def test_fractions_are_kept_to_the_microsecond(at: datetime) -> None:
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    assert moment((since // timedelta(microseconds=1)) * 1000 + 1) == at


@given(TIMES)
def test_a_written_time_is_read_as_it_was(at: datetime) -> None:
    assert moment(at.isoformat()) == at
    assert moment(at.isoformat().replace("+00:00", "Z")) == at
    assert moment(at.replace(tzinfo=None).isoformat()) == at


@pytest.mark.parametrize("value", [True, "", "soon", [], {}, 10**400, -5, "2026-13-01", 1e40, "9" * 5000])
def test_what_is_no_time_is_refused(value: Any) -> None:
    with pytest.raises(BadLine):
        moment(value)


@given(TIMES, st.integers(0, 360))
def test_a_date_of_the_last_year_gets_its_year_back(today: datetime, days: int) -> None:
    at = (today - timedelta(days=days)).replace(microsecond=0)
    assert nearest_past(at.month, at.day, f"{at:%H:%M:%S}", today) == at

"""Times in logs. Pure."""

import math
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from driftloop.cli.detecting.requests import BadLine

# Powers of ten by which a number is larger than seconds: milliseconds, microseconds, nanoseconds.
_UNITS = ((10**17, 10**9), (10**14, 10**6), (10**11, 10**3))
_FRACTION = re.compile(r"(\.\d{6})\d+")  # Go writes nanoseconds
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)


def moment(value: Any) -> datetime | None:
    """A time: RFC 3339, or a number since the epoch in s, ms, us or ns. None for null. Raises BadLine.

    >>> moment(1_767_225_600_000), moment("2026-01-01T01:00:00+01:00")
    (datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), \
datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc))
    """
    if value is None:
        return None
    try:
        found = _from_text(value) if isinstance(value, str) else _from_number(value)
        at = found.astimezone(UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise BadLine("the time is neither RFC 3339 nor a number of seconds since 1970") from error
    if at < EARLIEST:
        raise BadLine("the time is before the year 2000")
    return at


def nearest_past(month: int, day: int, clock: str, today: datetime) -> datetime:
    """The last time before tomorrow with this date, of which the log leaves out the year. UTC. Raises BadLine."""
    for year in range(today.year + 1, today.year - 9, -1):
        try:
            found = datetime.fromisoformat(f"{year:04d}-{month:02d}-{day:02d}T{clock}").replace(tzinfo=UTC)
        except ValueError:  # 29 February, or no date at all
            continue
        if found <= today + timedelta(days=1):
            return found
    raise BadLine("the time is not a date")


def _from_text(text: str) -> datetime:
    if text.isdecimal():  # OTLP writes 64-bit integers as text
        return _from_number(int(text))
    found = datetime.fromisoformat(_FRACTION.sub(r"\1", text.strip()))
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _from_number(value: Any) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("not a number")
    divisor = next((divisor for least, divisor in _UNITS if value >= least), 1)
    seconds, rest = divmod(value, divisor)  # exact for integers: a float of nanoseconds is off by a microsecond
    return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest * 10**6 // divisor)

"""What is normal for a signal at this hour and on this day, and how many requests count as one. Pure.

Requests differ by the time of the day and by the day of the week, and requests of one user or session resemble each
other. So three things are learned from the blocks of a version's normal traffic (a block is an hour, or less while the
reference is young):

- the counts per hour of the day and, from whole days, per day of the week. A window is compared with its own hour and
  day. The mean of an hour is shrunk towards the mean of all, as far as its own error explains the difference
  (empirical Bayes, Morris 1983). A day of the week that was never seen may differ by as much as days usually do.
- the design effect (Kish 1965): the variance of the mean score of a block or a whole day, times its requests. If it is
  3, then three requests count as one. It is measured on each block before the block is learned (Dawid 1984,
  prequential), so the error of the expected mean is part of it. An hour that was never seen is compared with the block
  before it: a daily cycle changes little from one hour to the next (von Neumann 1941).

Sources of variance with a longer period than a day (a customer who stays for a week) are measured only by the days.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from operator import mul

from driftloop.controller.drift.detector import Reference, normal_scores

HOURS, WEEKDAYS = 24, 7
Counts = tuple[int, ...]

USUAL_SPREAD = 2.0  # design effect that is assumed before it is measured,
USUAL_SPREAD_BLOCKS = 12.0  # with the weight of so many blocks
SPREAD_BLOCKS = 14 * 24.0  # blocks after which older ones fade
SPREAD_DAYS = 28.0
OUTLIER = 5.0  # times the design effect: the most that a block or day counts; a change is not the usual spread
DAYS_WEIGHT = 4.0  # weight of the blocks' design effect, in days, in the one of the days
USUAL_CYCLE = 0.08  # deviation of an hour or weekday, in standard deviations of a request, before it is measured,
USUAL_CYCLE_CELLS = 3.0  # with the weight of so many hours or weekdays


@dataclass(frozen=True)
class Spread:
    """Sums of squared, scaled differences of blocks and days from what was expected; each has the mean 1 if requests
    are independent."""

    total: float = 0.0
    blocks: float = 0.0
    day_total: float = 0.0
    days: float = 0.0

    @property
    def design_effect(self) -> float:
        """Requests that count as one."""
        by_block = (USUAL_SPREAD_BLOCKS * USUAL_SPREAD + self.total) / (USUAL_SPREAD_BLOCKS + self.blocks)
        by_day = (DAYS_WEIGHT * by_block + self.day_total) / (DAYS_WEIGHT + self.days)
        return max(1.0, by_block, by_day)

    def with_block(self, square: float) -> "Spread":
        kept = min(1.0, (SPREAD_BLOCKS - 1) / self.blocks) if self.blocks else 1.0
        added = min(square, OUTLIER * self.design_effect)
        return replace(self, total=kept * self.total + added, blocks=kept * self.blocks + 1)

    def with_day(self, square: float) -> "Spread":
        kept = min(1.0, (SPREAD_DAYS - 1) / self.days) if self.days else 1.0
        added = min(square, OUTLIER * self.design_effect)
        return replace(self, day_total=kept * self.day_total + added, days=kept * self.days + 1)


@dataclass(frozen=True)
class Normal:
    """What was learned of one signal. Cells are counts per bin; an empty cell was never seen."""

    counts: Counts = ()
    hours: tuple[Counts, ...] = ((),) * HOURS
    weekdays: tuple[Counts, ...] = ((),) * WEEKDAYS  # whole days only: parts of a day differ by the hour
    today: Counts = ()
    today_moved: float = 0.0  # sum over today's blocks of requests times the difference from what was expected
    previous: Counts = ()  # the block before
    spread: Spread = Spread()

    @property
    def rows(self) -> int:
        return sum(self.counts)

    def at(self, when: datetime) -> Reference:
        """What a request at this time is compared with."""
        rows = self.rows
        plain = Reference(rows, tuple(count / rows for count in self.counts) if rows else ())
        scores, together = normal_scores(plain), self.spread.design_effect
        if scores is None:
            return plain
        hours, weekdays = [_mean(scores, cell) for cell in self.hours], [_mean(scores, cell) for cell in self.weekdays]
        hour, hour_variance = _effect(hours, when.hour, together)
        weekday, weekday_variance = _effect(_centred(weekdays), when.weekday(), together)
        # The errors of the hours that were seen are independent and short: the design effect contains them.
        unseen = hour_variance if hours[when.hour] is None else 0.0
        error = math.sqrt(together / rows + unseen + weekday_variance)
        return replace(plain, mean=hour + weekday, error=error, together=together)

    def with_block(self, block: Counts, when: datetime) -> "Normal":
        """With the counts of a block that began at `when`; unchanged if the block is empty, or has other bins."""
        if sum(block) <= 0 or (self.counts and len(block) != len(self.counts)):
            return self
        measured = self._measured(block, when) if self.rows else self
        cells = list(measured.hours)
        cells[when.hour] = _added(cells[when.hour], block)
        return replace(
            measured,
            counts=_added(self.counts, block),
            hours=tuple(cells),
            today=_added(self.today, block),
            previous=block,
        )

    def with_day(self, when: datetime, whole: bool) -> "Normal":
        """After the day of `when`. Only a whole day tells about its day of the week."""
        ended = replace(self, today=(), today_moved=0.0)
        if not whole or not sum(self.today):
            return ended
        seen = self.weekdays[when.weekday()]
        spread = self.spread.with_day(self.today_moved**2 / sum(self.today)) if seen else self.spread
        cells = list(self.weekdays)
        cells[when.weekday()] = _added(seen, self.today)
        return replace(ended, weekdays=tuple(cells), spread=spread)

    def _measured(self, block: Counts, when: datetime) -> "Normal":
        """With the difference of the block from what was expected."""
        reference = self.at(when)
        scores = normal_scores(reference)
        mean = _mean(scores, block) if scores else None
        if scores is None or mean is None:
            return self
        rows, value = mean
        moved = rows * (value - reference.mean)
        before = _mean(scores, self.previous)
        if self.hours[when.hour]:
            spread = self.spread.with_block(moved**2 / rows)
        elif before:
            spread = self.spread.with_block((value - before[1]) ** 2 / (1 / rows + 1 / before[0]))
        else:
            spread = self.spread
        return replace(self, spread=spread, today_moved=self.today_moved + moved)


_Mean = tuple[float, float] | None  # requests and their mean score; None without requests


def _mean(scores: Sequence[float], counts: Counts) -> _Mean:
    rows = sum(counts)
    return (rows, sum(map(mul, scores, counts)) / rows) if rows else None


def _centred(cells: Sequence[_Mean]) -> list[_Mean]:
    seen = [cell for cell in cells if cell]
    rows = sum(rows for rows, _ in seen)
    middle = sum(rows * mean for rows, mean in seen) / rows if rows else 0.0
    return [(cell[0], cell[1] - middle) if cell else None for cell in cells]


def _effect(cells: Sequence[_Mean], index: int, together: float) -> tuple[float, float]:
    """The expected difference of a cell from the mean of all, and the variance of its error."""
    seen = [cell for cell in cells if cell]
    beyond = sum(mean**2 - together / rows for rows, mean in seen)
    usual = (USUAL_CYCLE_CELLS * USUAL_CYCLE**2 + max(0.0, beyond)) / (USUAL_CYCLE_CELLS + len(seen))
    cell = cells[index]
    if cell is None:
        return 0.0, usual
    own = together / cell[0]
    return usual / (usual + own) * cell[1], usual / (usual + own) * own


def _added(before: Counts, counts: Counts) -> Counts:
    return tuple(a + b for a, b in zip(before or (0,) * len(counts), counts, strict=True))

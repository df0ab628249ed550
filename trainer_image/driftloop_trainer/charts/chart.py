"""Values over steps as a picture with a panel for each kind of value. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from driftloop_trainer.charts.canvas import Canvas, Colour, Point, text_width

Series = Sequence[tuple[float, float]]  # steps and values; a value that is not finite is a gap

_WIDTH, _HEIGHT, _COLUMNS = 480, 260, 2  # of a panel, and panels per row
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 16, 34, 34  # margins around a panel's axes
_BLACK, _GREY, _LIGHT, _DARK = (40, 40, 40), (225, 225, 225), (158, 190, 224), (31, 97, 166)
_TICKS = 5  # at most, per axis
_SMOOTHED = 40  # from so many points on, their running mean is drawn too
_WINDOW = 0.05  # share of the points over which it is taken


def chart(panels: Mapping[str, Series]) -> bytes:
    """A PNG with a panel for each series that has a finite value, under its name."""
    drawn = {name: points for name, points in panels.items() if any(math.isfinite(value) for _, value in points)}
    rows = max(1, math.ceil(len(drawn) / _COLUMNS))
    canvas = Canvas(_WIDTH * max(1, min(_COLUMNS, len(drawn))), _HEIGHT * rows)
    for number, (name, points) in enumerate(drawn.items()):
        row, column = divmod(number, _COLUMNS)
        _draw(canvas, name, points, (column * _WIDTH, row * _HEIGHT))
    return canvas.png()


@dataclass(frozen=True)
class _Axis:
    """From values to pixels: `low` is at `start`, and `high` at `end`."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _draw(canvas: Canvas, name: str, points: Series, corner: Point) -> None:
    thinned = thin(points, _WIDTH - _LEFT - _RIGHT)
    left, top = corner[0] + _LEFT, corner[1] + _TOP
    right, bottom = corner[0] + _WIDTH - _RIGHT, corner[1] + _HEIGHT - _BOTTOM
    across = _Axis(*_limits([step for step, _ in thinned], 0), left, right)
    up = _Axis(*_limits([value for _, value in thinned], 0.05), bottom, top)
    canvas.text(name, left, corner[1] + _TOP - 12, _BLACK)
    for tick in ticks(up.low, up.high):
        y, words = up.place(tick), f"{tick:g}"
        canvas.line([(left, y), (right, y)], _GREY)
        canvas.text(words, left - 8 - text_width(words), y + 4, _BLACK)
    for tick in (tick for tick in ticks(across.low, across.high) if tick.is_integer()):
        x, words = across.place(tick), f"{tick:.9g}"
        canvas.line([(x, bottom), (x, bottom + 4)], _BLACK)
        canvas.text(words, x - text_width(words) / 2, bottom + 18, _BLACK)
    canvas.line([(left, top), (left, bottom), (right, bottom)], _BLACK)
    noisy = len(points) >= _SMOOTHED
    _plot(canvas, thinned, (across, up), _LIGHT if noisy else _DARK)
    if noisy:
        _plot(canvas, running_mean(thinned, max(2, round(len(thinned) * _WINDOW / 2))), (across, up), _DARK)


def _plot(canvas: Canvas, points: Series, axes: tuple[_Axis, _Axis], colour: Colour) -> None:
    across, up = axes
    for part in _parts(points):
        places = [(across.place(step), up.place(value)) for step, value in part]
        canvas.line(places * 2 if len(places) == 1 else places, colour, 6 if len(places) == 1 else 1.8)


def _parts(points: Series) -> Iterator[list[tuple[float, float]]]:
    """The points between the gaps."""
    part: list[tuple[float, float]] = []
    for point in points:
        if math.isfinite(point[1]):
            part.append(point)
        elif part:
            yield part
            part = []
    if part:
        yield part


def _limits(values: Sequence[float], margin: float) -> tuple[float, float]:
    """The smallest and largest finite value, with this share of their distance around them."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite), max(finite)
    room = (high - low) * margin if high > low else abs(high) or 1.0
    return low - room, high + room


def ticks(low: float, high: float) -> list[float]:
    """Up to five round numbers from `low` to `high`.

    >>> ticks(0.3, 2.1)
    [0.5, 1.0, 1.5, 2.0]
    """
    rough = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.ceil(low / width), math.floor(high / width)
    return [float(f"{number * width:.9g}") for number in range(first, last + 1)]


def thin(points: Series, most: int) -> list[tuple[float, float]]:
    """At most `most` points: each is the mean of neighbours, without those that are not finite."""
    size = math.ceil(len(points) / most)
    groups = [points[place : place + size] for place in range(0, len(points), size)]
    return [(group[-1][0], mean([value for _, value in group])) for group in groups]


def running_mean(points: Series, window: int) -> list[tuple[float, float]]:
    """Each point with the mean of the values up to `window` points before and after it, as many on each side.

    >>> running_mean([(1, 0.0), (2, 4.0), (3, 2.0)], 1)
    [(1, 0.0), (2, 2.0), (3, 2.0)]
    """
    values, last = [value for _, value in points], len(points) - 1
    sides = [min(window, place, last - place) for place in range(len(points))]
    return [
        (step, mean(values[n - side : n + side + 1]))
        for n, ((step, _), side) in enumerate(zip(points, sides, strict=True))
    ]


def mean(values: Sequence[float]) -> float:
    """The mean of the finite values; NaN without any."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan

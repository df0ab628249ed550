"""A chart as SVG: shares of 0 to 100 % over another value, with a legend. For the plots in docs/."""

from collections.abc import Iterable, Mapping, Sequence

LEFT, TOP, WIDTH, HEIGHT = 60, 20, 430, 300  # of the plot, in pixels
_SHARES = (0, 0.25, 0.5, 0.75, 1)


def place(across: float, share: float) -> tuple[float, float]:
    """Where a point is. `across`: from 0 at the left edge to 1 at the right one."""
    return LEFT + WIDTH * across, TOP + HEIGHT * (1 - share)


def chart(
    ticks: Mapping[float, str], across: str, up: str, marks: Iterable[str], names: Mapping[str, str], note: str
) -> str:
    """The document. `ticks`: texts below the plot, by their place from 0 to 1. `across`, `up`: what the axes show.

    `marks`: elements inside the plot. `names`: colours of the legend, by name; `note` stands below it.
    """
    legend = [part for number, name in enumerate(names) for part in _entry(number, name, names[name])]
    y = TOP + 30 + 22 * len(names)
    told = f'<text x="{LEFT + WIDTH + 14}" y="{y}">{note}</text>'
    return "\n".join([*_frame(ticks), *_labels(across, up), *marks, *legend, told, "</svg>", ""])


def rule(across: float, text: str) -> Sequence[str]:
    """A dotted line from top to bottom with its name."""
    x, _ = place(across, 0)
    return (
        f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{TOP + HEIGHT}" stroke="#999" stroke-dasharray="2 3"/>',
        f'<text x="{x + 4:.0f}" y="{TOP + 12}">{text}</text>',
    )


def _frame(ticks: Mapping[float, str]) -> Iterable[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + 330} {TOP + HEIGHT + 60}" '
        'font-family="sans-serif" font-size="12">'
    )
    yield '<rect width="100%" height="100%" fill="white"/>'
    yield f'<rect x="{LEFT}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
    for share in _SHARES:
        _, y = place(0, share)
        yield f'<line x1="{LEFT}" x2="{LEFT + WIDTH}" y1="{y:.0f}" y2="{y:.0f}" stroke="#eee"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.0f}" text-anchor="end">{share:.0%}</text>'
    for across, text in ticks.items():
        x, _ = place(across, 0)
        yield f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{TOP + HEIGHT}" stroke="#eee"/>'
        yield f'<text x="{x:.0f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{text}</text>'


def _labels(across: str, up: str) -> Iterable[str]:
    middle = TOP + HEIGHT / 2
    yield f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 36}" text-anchor="middle">{across}</text>'
    yield f'<text x="14" y="{middle}" text-anchor="middle" transform="rotate(-90 14 {middle})">{up}</text>'


def _entry(number: int, name: str, colour: str) -> Iterable[str]:
    y = TOP + 12 + 22 * number
    yield f'<circle cx="{LEFT + WIDTH + 20}" cy="{y - 4}" r="6" fill="{colour}"/>'
    yield f'<text x="{LEFT + WIDTH + 34}" y="{y}">{name}</text>'

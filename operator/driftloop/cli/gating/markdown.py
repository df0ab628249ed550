"""The report of `driftloop gate` as Markdown, for the summary of a pipeline or a merge request. Pure."""

import re
from collections.abc import Sequence

from driftloop.cli.gating.report import Report, Side
from driftloop.cli.gating.table import COLUMNS, cells

_SPECIAL = re.compile(r"([\\`*_\[\]<>|~#&@!])")


def markdown(report: Report) -> str:
    """The verdict, what was compared, and a row per gate."""
    lines = [f"## Model gate: {report.verdict}", "", plain(report.summary), "", _side("Model", report.model)]
    if report.baseline:
        lines.append(_side("Baseline", report.baseline))
    if report.gates:
        head = [*COLUMNS, "message"]
        lines += ["", _row(head), _row(["---"] * len(head))]
        lines += [_row([plain(cell) for cell in (*cells(gate), gate.message)]) for gate in report.gates]
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text on one line that Markdown shows as it is: a message may contain a model's answer.

    >>> plain("a|b" + chr(10) + "<img>")
    'a\\\\|b \\\\<img\\\\>'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def _side(title: str, side: Side) -> str:
    return f"- {title}: {plain(side.folder)} (`{side.digest}`)"


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"

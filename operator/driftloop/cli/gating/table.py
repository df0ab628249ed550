"""The report of `driftloop gate` as a table for a terminal. Pure."""

from driftloop.api.modelversion import Gate
from driftloop.cli.gating.report import Report

COLUMNS = ("gate", "kind", "verdict", "value", "baseline", "items")


def cells(gate: Gate) -> tuple[str, ...]:
    """The columns of a gate."""
    items = "" if gate.items is None else str(gate.items)
    return gate.name, gate.kind, gate.verdict, gate.value or "", gate.baseline or "", items


def table(report: Report) -> str:
    """A line per gate with its message below, and the verdict in the last line."""
    rows = [COLUMNS, *(cells(gate) for gate in report.gates)] if report.gates else []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    messages = ["", *(f"    {gate.message}" for gate in report.gates)]
    below = [line for pair in zip(lines, messages, strict=False) for line in pair if line]
    return "\n".join([*below, f"{report.verdict}: {report.summary}"])

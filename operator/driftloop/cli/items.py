"""The items that the gates of a job need, before anything runs. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from driftloop.api.finetunejob import HELD_OUT_PERCENT, FineTuneJobSpec
from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import ItemsNeeded, bound_of, items_needed
from driftloop.contract.looks import Look

_BOUNDS = {"floor": "minimum", "target": "minGain", "retention": "delta"}
_ENOUGH = {"Yes": "enough", "Rarely": "few", "No": "too few", "Unknown": "the gate can pass"}


@dataclass(frozen=True)
class GatePlan:
    """The first look at a suite."""

    suite: SuiteSpec
    needed: ItemsNeeded
    items: int | None  # about how many it will have; None if nothing is known

    def dump(self) -> dict[str, Any]:
        """The plan for JSON output."""
        about = {"name": self.suite.name, "kind": self.suite.kind, _BOUNDS[self.suite.kind]: bound_of(self.suite)}
        return about | asdict(self.needed) | {"items": self.items, "enough": self.needed.enough(self.items)}

    def text(self) -> Iterator[str]:
        """The plan in a line or two."""
        suite, needed = self.suite, self.needed
        least = "no number of items can pass" if needed.least is None else f"{needed.least:,} items at least"
        planned = f", {needed.planned:,} for an equal version to pass in 80 %" if needed.planned else ""
        bound = f"{_BOUNDS[suite.kind]} {bound_of(suite):g}"
        yield f"{suite.name}: {suite.kind}, {bound}, look 1 may err in {Look().error}: {least}{planned}"
        if self.items is not None:
            yield f"{suite.name}: about {self.items:,} items, {_ENOUGH[needed.enough(self.items)]}"


def gate_plans(spec: FineTuneJobSpec, rows: int | None) -> Sequence[GatePlan]:
    """The first looks of a job with about so many training rows (None: unknown)."""
    return [
        GatePlan(suite, items_needed(suite, anchor_look=1), _expected(suite, spec, rows))
        for suite in spec.evaluation.suites
    ]


def _expected(suite: SuiteSpec, spec: FineTuneJobSpec, rows: int | None) -> int | None:
    """About how many held-out rows there are beside so many training rows. The numbers of other items are unknown."""
    if suite.items != "data" or rows is None or spec.training.packing:
        return None
    percent = HELD_OUT_PERCENT if spec.data.held_out_percent is None else spec.data.held_out_percent
    return min(suite.max_items, rows * percent // (100 - percent))

"""One step of an object that goes through stages, and the plan that it amounts to. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from driftloop.api.base import Condition
from driftloop.api.finetunejob import FineTuneJobStatus
from driftloop.api.modelversion import ModelVersionStatus
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.plan import Action, Obj, Plan, independent

Phase = TypeVar("Phase", bound=str)


@dataclass(frozen=True)
class Step(Generic[Phase]):
    """Where the object is, and what brings it further. `changes` are fields of the status."""

    phase: Phase
    conditions: list[Condition]
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    beside: tuple[Action, ...] = ()  # what may be refused without stopping anything


def to_plan(
    step: Step[Any],
    obj: Obj,
    status: FineTuneJobStatus | ModelVersionStatus,
    now: datetime,
    beside: tuple[Action, ...],
    wait: float | None,
) -> Plan:
    """The step's actions, those beside it, the status that it leads to, and the Event of its transition.

    `status` is what `obj` has now. The next look comes after `wait` or the step's own time, whichever is shorter.
    """
    old = [entry.dump() for entry in status.conditions]
    generation = obj["metadata"].get("generation")
    update = {"phase": step.phase, "observed_generation": generation, **step.changes}
    new = status.model_copy(update=update).dump()
    new["conditions"] = conditions.merge(old, step.conditions, generation, now)
    waits = [seconds for seconds in (step.requeue_after, wait) if seconds is not None]
    return Plan(
        actions=step.actions,
        beside=independent((*beside, *step.beside)),
        status=new,
        events=conditions.transition(old, step.conditions),
        requeue_after=min(waits, default=None),
    )

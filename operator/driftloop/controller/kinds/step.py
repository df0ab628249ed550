"""One step of an object that goes through stages, and the plan for it. Pure."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar

from driftloop.api.base import Condition
from driftloop.api.finetunejob import FineTuneJobStatus
from driftloop.api.modelversion import ModelVersionStatus
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.plan import Action, Group, Obj, Plan, independent

Phase = TypeVar("Phase", bound=str)


@dataclass(frozen=True)
class Step(Generic[Phase]):
    """The phase and conditions of an object, and the actions that move it forward."""

    phase: Phase
    conditions: list[Condition]
    actions: tuple[Action, ...] = ()
    requeue_after: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)  # further fields of the status
    beside: tuple[Action, ...] = ()  # independent actions: if one is refused, the others still run
    groups: tuple[Group, ...] = ()  # the same with Events


def to_plan(
    step: Step[Any],
    obj: Obj,
    status: FineTuneJobStatus | ModelVersionStatus,
    now: datetime,
    beside: tuple[Action, ...],
    wait: float | None,
) -> Plan:
    """The plan: the step's actions, the actions in `beside`, the new status, and the Event of the transition.

    `status` is the current status of `obj`. The next reconcile is after `wait` or `step.requeue_after`, whichever is
    shorter.
    """
    old = [entry.dump() for entry in status.conditions]
    generation = obj["metadata"].get("generation")
    update = {"phase": step.phase, "observed_generation": generation, **step.changes}
    new = status.model_copy(update=update).dump()
    new["conditions"] = conditions.merge(old, step.conditions, generation, now)
    waits = [seconds for seconds in (step.requeue_after, wait) if seconds is not None]
    return Plan(
        actions=step.actions,
        beside=(*independent((*beside, *step.beside)), *step.groups),
        status=new,
        events=conditions.transition(old, step.conditions),
        requeue_after=min(waits, default=None),
    )

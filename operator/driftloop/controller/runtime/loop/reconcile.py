"""One reconcile: observe, decide, execute; and what a failure means.

What somebody must act on becomes a condition and an Event of that one object; what passes by itself is tried again.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from driftloop.api.base import Condition
from driftloop.controller.runtime.kube.api import ApiError
from driftloop.controller.runtime.kube.caches import Caches
from driftloop.controller.runtime.loop.execute import Executor, Halted, Stale, refusal, with_refusals
from driftloop.controller.runtime.readings.world import World
from driftloop.controller.vocabulary import conditions
from driftloop.controller.vocabulary.kind import Kind
from driftloop.controller.vocabulary.plan import Event, Key, Obj, Plan
from driftloop.controller.vocabulary.reasons import Reason

log = logging.getLogger(__name__)

_PHASED = ("Ready", "Reconciling", "Stalled")


@dataclass(frozen=True)
class Result:
    """How a reconcile ended. `name` is the metric's label.

    wrote: look again at once, since what was written is to be observed. retry: try again after a back-off.
    after: seconds until the next look, without anything happening.
    """

    name: str
    wrote: bool = False
    retry: bool = False
    after: float | None = None


class Reconciler:
    """Reconciles one object at a time, whichever kind it is."""

    def __init__(self, kinds: Mapping[str, Kind[Any]], world: World, caches: Caches, executor: Executor) -> None:
        self._kinds = kinds
        self._world = world
        self._caches = caches
        self._executor = executor

    async def reconcile(self, key: Key) -> Result:
        """Bring the world one step nearer to what the object wants. Unforeseen errors are raised."""
        obj = self._caches.get(*key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._executor.forget(key)
            return Result("gone")
        kind = self._kinds[key.kind]
        try:
            kind.model.model_validate(obj)
        except ValidationError as error:
            return await self._complain(kind, obj, Reason.INVALID_SPEC, _fields(error))
        try:
            return await self._run(kind, key, obj)
        except Stale as error:  # the caches have learned of it: decide anew
            log.info("stale: %s", error)
            return Result("stale", retry=True)
        except ApiError as error:  # of an observer that asks the API server itself, or where the status was to go
            return await self._halted(kind, obj, Halted(error, {}))

    async def _halted(self, kind: Kind[Any], obj: Obj, halted: Halted) -> Result:
        """What passes by itself is tried again; all else is told, beside what holds whatever became of the chain."""
        refused = refusal(halted.error)
        if refused.reason is None:
            log.warning("refused: %s", refused.message)
            return Result("retry", retry=True)
        return await self._complain(kind, obj, refused.reason, refused.message, halted)

    async def _run(self, kind: Kind[Any], key: Key, obj: Obj) -> Result:
        observed = await kind.observe(key, self._world)
        if observed is None:
            return Result("gone")
        plan = kind.decide(observed, self._world.settings, self._world.now())
        try:
            done = await self._executor.execute(obj, plan, kind.status)
        except Halted as halted:
            return self._on_time(await self._halted(kind, obj, halted), key, plan)
        name = "refused" if done.refused else "written" if done.wrote else "settled"
        return self._on_time(Result(name, done.wrote, done.refused, plan.requeue_after), key, plan)

    def _on_time(self, result: Result, key: Key, plan: Plan) -> Result:
        """What was refused is asked for again in its own time; until then, looks come when the plan wants them."""
        ask_again = self._executor.ask_again(key)
        if ask_again is None:
            return result
        waits = [seconds for seconds in (plan.requeue_after, ask_again) if seconds is not None]
        return replace(result, retry=False, after=min(waits))

    async def _complain(
        self, kind: Kind[Any], obj: Obj, reason: Reason, message: str, halted: Halted | None = None
    ) -> Result:
        """Tell what is wrong in the object's conditions, leave the rest of its status, and come back later."""
        log.warning("%s: %s", reason, message)
        conflict = Result("retry", retry=True)
        plan = Plan(
            status=complaint(obj, reason, message, self._world),
            events=(Event("Warning", reason, conditions.shorten(message, conditions.MAX_EVENT)),),
        )
        if halted is not None:
            plan = with_groups(obj, plan, halted, self._world.now())
        status = plan.status or {}
        for attempt in (status, {key: status[key] for key in ("observedGeneration", "conditions")}):
            try:
                await self._executor.report(obj, attempt, plan.events, kind.status)
                return Result("stalled", retry=True)
            except ValidationError:
                continue  # it is the old status that doesn't parse: it can be lost, as every status
            except (ApiError, Stale) as error:
                log.warning("condition %s not written: %s", reason, error)
                return conflict
        return conflict


def with_groups(obj: Obj, plan: Plan, halted: Halted, now: datetime) -> Plan:
    """A complaint's plan with what the groups beside the chain came to. Pure."""
    plan = Plan(status=(plan.status or {}) | halted.kept, events=(*plan.events, *halted.events))
    status_with, events = with_refusals(obj, plan, halted.refusals, now)
    return Plan(status=status_with, events=events)


def complaint(obj: Obj, reason: str, message: str, world: World) -> Obj:
    """The object's status with `Stalled` and not `Ready`; its other conditions stay."""
    old = obj.get("status") or {}
    before = [entry for entry in old.get("conditions") or [] if isinstance(entry, dict) and "type" in entry]
    kept = [Condition.model_validate(entry) for entry in before if entry["type"] not in _PHASED]
    generation = obj["metadata"].get("generation")
    new = conditions.merge(before, [*kept, *conditions.stalled(reason, message)], generation, world.now())
    return old | {"observedGeneration": generation, "conditions": new}


def _fields(error: ValidationError) -> str:
    """`spec.training.learningRate: Input should be greater than 0; ...`"""
    found = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in error.errors()]
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(found[:5]) + more

"""One reconcile: observe, decide, execute, and handle failures.

A failure that needs a person becomes a condition and an Event of the object. A transient failure is retried.
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
    """How a reconcile ended. `name` is the label of the metric.

    wrote: reconcile again immediately, to observe the written objects. retry: reconcile again after a back-off. after:
    seconds until the next reconcile if nothing changes.
    """

    name: str
    wrote: bool = False
    retry: bool = False
    after: float | None = None


class Reconciler:
    """Reconciles single objects of any kind."""

    def __init__(self, kinds: Mapping[str, Kind[Any]], world: World, caches: Caches, executor: Executor) -> None:
        self._kinds = kinds
        self._world = world
        self._caches = caches
        self._executor = executor

    async def reconcile(self, key: Key) -> Result:
        """Move the cluster one step towards the object's desired state. Unexpected errors are raised."""
        obj = self._caches.get(*key)
        if obj is None or obj["metadata"].get("deletionTimestamp"):
            self._executor.forget(key)
            return Result("gone")
        kind = self._kinds[key.kind]
        try:
            kind.model.model_validate(obj)
        except ValidationError as error:
            return await self._report(kind, obj, Reason.INVALID_SPEC, _fields(error))
        try:
            return await self._run(kind, key, obj)
        except Stale as error:  # the caches are up to date again, so a new decision is needed
            log.info("stale: %s", error)
            return Result("stale", retry=True)
        except ApiError as error:  # from an observer that reads from the API server, or from writing the status
            return await self._halted(kind, obj, Halted(error, {}))

    async def _halted(self, kind: Kind[Any], obj: Obj, halted: Halted) -> Result:
        """Retry a transient failure. Report any other one in the status, together with the groups' results."""
        refused = refusal(halted.error)
        if refused.reason is None:
            log.warning("refused: %s", refused.message)
            return Result("retry", retry=True)
        return await self._report(kind, obj, refused.reason, refused.message, halted)

    async def _run(self, kind: Kind[Any], key: Key, obj: Obj) -> Result:
        observed = await kind.observe(key, self._world)
        if observed is None:
            return Result("gone")
        plan = kind.decide(observed, self._world.settings, self._world.now())
        try:
            executed = await self._executor.execute(obj, plan, kind.status)
        except Halted as halted:
            return self._scheduled(await self._halted(kind, obj, halted), key, plan)
        name = "refused" if executed.refused else "written" if executed.wrote else "settled"
        return self._scheduled(Result(name, executed.wrote, executed.refused, plan.requeue_after), key, plan)

    def _scheduled(self, result: Result, key: Key, plan: Plan) -> Result:
        """The result with the next reconcile at the plan's time, or when a refused write is due, if that is earlier."""
        ask_again = self._executor.ask_again(key)
        if ask_again is None:
            return result
        waits = [seconds for seconds in (plan.requeue_after, ask_again) if seconds is not None]
        return replace(result, retry=False, after=min(waits))

    async def _report(
        self, kind: Kind[Any], obj: Obj, reason: Reason, message: str, halted: Halted | None = None
    ) -> Result:
        """Report a failure in the object's conditions, keep the rest of its status, and retry later."""
        log.warning("%s: %s", reason, message)
        not_written = Result("retry", retry=True)
        plan = Plan(
            status=stalled_status(obj, reason, message, self._world),
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
                continue  # the old status is invalid: write only the conditions, as every status may be lost
            except (ApiError, Stale) as error:
                log.warning("condition %s not written: %s", reason, error)
                return not_written
        return not_written


def with_groups(obj: Obj, plan: Plan, halted: Halted, now: datetime) -> Plan:
    """The plan that reports a failure, with the results of the groups added. Pure."""
    plan = Plan(status=(plan.status or {}) | halted.kept, events=(*plan.events, *halted.events))
    status_with, events = with_refusals(obj, plan, halted.refusals, now)
    return Plan(status=status_with, events=events)


def stalled_status(obj: Obj, reason: str, message: str, world: World) -> Obj:
    """The object's status with `Stalled` set and `Ready` False. Its other conditions are kept."""
    old = obj.get("status") or {}
    previous = [entry for entry in old.get("conditions") or [] if isinstance(entry, dict) and "type" in entry]
    kept = [Condition.model_validate(entry) for entry in previous if entry["type"] not in _PHASED]
    generation = obj["metadata"].get("generation")
    new = conditions.merge(previous, [*kept, *conditions.stalled(reason, message)], generation, world.now())
    return old | {"observedGeneration": generation, "conditions": new}


def _fields(error: ValidationError) -> str:
    """`spec.training.learningRate: Input should be greater than 0; ...`"""
    errors = [f"{'.'.join(str(part) for part in entry['loc'])}: {entry['msg']}" for entry in error.errors()]
    more = f"; and {len(errors) - 5} more" if len(errors) > 5 else ""
    return "; ".join(errors[:5]) + more

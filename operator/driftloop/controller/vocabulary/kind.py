"""The interface between a kind of custom resource and the runtime."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel

from driftloop.controller.vocabulary.plan import Key, Obj, Plan, Settings
from driftloop.controller.vocabulary.world import Lookup, World

CUSTOM = ("FineTuneJob", "ModelVersion", "InferenceService")

Observed = TypeVar("Observed")


@dataclass(frozen=True)
class Kind(Generic[Observed]):
    """One kind. `Observed` is everything that its decision may use. Only the kind itself knows its content."""

    model: type[BaseModel]  # model of the complete object
    status: type[BaseModel]
    observe: Callable[[Key, World], Awaitable[Observed | None]]  # None: the object does not exist any more
    decide: Callable[[Observed, Settings, datetime], Plan]
    concerned: Callable[[Obj, Lookup], Iterable[Key]]  # objects of this kind to reconcile when another object changes

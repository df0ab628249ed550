"""How one custom resource is reconciled: what a kind gives to the runtime."""

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
    """One kind. `Observed` is all that its decision may look at; only the kind itself knows what is in it."""

    model: type[BaseModel]  # of the whole object
    status: type[BaseModel]
    observe: Callable[[Key, World], Awaitable[Observed | None]]  # None: the object is gone
    decide: Callable[[Observed, Settings, datetime], Plan]
    concerned: Callable[[Obj, Lookup], Iterable[Key]]  # its objects to reconcile when another object has changed

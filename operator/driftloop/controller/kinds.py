"""The three kinds: their API types, and the functions that observe and decide. The only place that knows all three."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobStatus
from driftloop.api.inferenceservice import InferenceService, InferenceServiceStatus
from driftloop.api.modelversion import ModelVersion, ModelVersionStatus
from driftloop.controller.vocabulary.plan import Key, Plan, Settings

if TYPE_CHECKING:
    from driftloop.controller.runtime.world import World


@dataclass(frozen=True)
class Kind:
    """How one kind is reconciled. `observe` gives None when the object is gone."""

    model: type[BaseModel]
    status: type[BaseModel]
    observe: Callable[[Key, "World"], Awaitable[Any]]
    decide: Callable[[Any, Settings, datetime], Plan]


def kinds() -> dict[str, Kind]:
    """The registry."""
    from driftloop.controller.finetunejob import decide as decide_job
    from driftloop.controller.finetunejob import observe as observe_job
    from driftloop.controller.inferenceservice import decide as decide_service
    from driftloop.controller.inferenceservice import observe as observe_service
    from driftloop.controller.modelversion import decide as decide_version
    from driftloop.controller.modelversion import observe as observe_version

    return {
        "FineTuneJob": Kind(FineTuneJob, FineTuneJobStatus, observe_job.observe, decide_job.decide),
        "ModelVersion": Kind(ModelVersion, ModelVersionStatus, observe_version.observe, decide_version.decide),
        "InferenceService": Kind(
            InferenceService, InferenceServiceStatus, observe_service.observe, decide_service.decide
        ),
    }

"""The list of the three kinds. No other module imports all of them."""

from typing import Any

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobStatus
from driftloop.api.inferenceservice import InferenceService, InferenceServiceStatus
from driftloop.api.modelversion import ModelVersion, ModelVersionStatus
from driftloop.controller.kinds.finetunejob import concerned as job_concerned
from driftloop.controller.kinds.finetunejob import decide as job_decide
from driftloop.controller.kinds.finetunejob import observe as job_observe
from driftloop.controller.kinds.inferenceservice import concerned as service_concerned
from driftloop.controller.kinds.inferenceservice import decide as service_decide
from driftloop.controller.kinds.inferenceservice import observe as service_observe
from driftloop.controller.kinds.modelversion import concerned as version_concerned
from driftloop.controller.kinds.modelversion import decide as version_decide
from driftloop.controller.kinds.modelversion import observe as version_observe
from driftloop.controller.vocabulary.kind import Kind

JOB = Kind(FineTuneJob, FineTuneJobStatus, job_observe.observe, job_decide.decide, job_concerned.concerned)
VERSION = Kind(
    ModelVersion, ModelVersionStatus, version_observe.observe, version_decide.decide, version_concerned.concerned
)
SERVICE = Kind(
    InferenceService,
    InferenceServiceStatus,
    service_observe.observe,
    service_decide.decide,
    service_concerned.concerned,
)
KINDS: dict[str, Kind[Any]] = {"FineTuneJob": JOB, "ModelVersion": VERSION, "InferenceService": SERVICE}

"""How a version is evaluated: what a FineTuneJob says of its versions, and a ModelVersion of itself."""

from pydantic import Field

from driftloop.api.base import ApiModel, QueueName
from driftloop.api.engine import Engine


class EvaluationSettings(ApiModel):
    """How versions are asked the items of their suites."""

    max_tokens: int = Field(
        32, ge=1, le=32_768, description="The longest answer, in tokens: longer ones are cut, and are wrong."
    )
    concurrency: int = Field(8, ge=1, le=1024, description="Items that are asked at a time.")
    engine: Engine | None = Field(
        None,
        description="What runs the model for the evaluation; if absent the engine of the first InferenceService, by "
        "name, that follows the family, else transformers without GPUs.",
    )
    queue_name: QueueName | None = Field(
        None, description="Kueue queue that admits the pods; of a job's versions `compute.queueName` if absent."
    )
    startup_timeout_seconds: int = Field(
        600, ge=10, le=86_400, description="Seconds within which the served model must be ready, its download included."
    )
    active_deadline_seconds: int = Field(
        21_600, ge=60, le=31_536_000, description="Seconds within which one version must have answered all items."
    )

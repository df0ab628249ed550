"""Evaluation settings that FineTuneJob and ModelVersion share."""

from pydantic import Field

from driftloop.api.base import ApiModel, QueueName
from driftloop.api.engine import Engine


class EvaluationSettings(ApiModel):
    """How the items of the suites are asked."""

    max_tokens: int = Field(
        32,
        ge=1,
        le=32_768,
        description="Maximum length of an answer, in tokens. A longer answer is cut and counts as wrong.",
    )
    concurrency: int = Field(8, ge=1, le=1024, description="Number of items that are asked at the same time.")
    engine: Engine | None = Field(
        None,
        description="The engine that runs the model for the evaluation. If absent: the engine of the InferenceService "
        "with whose stable version the model is compared; else of the first one, by name, that "
        "follows the family (those that pin a version come last); if there is none, transformers without GPUs.",
    )
    queue_name: QueueName | None = Field(
        None,
        description="Kueue queue that admits the pods. If absent, the versions of a job use the job's "
        "`compute.queueName`.",
    )
    startup_timeout_seconds: int = Field(
        600, ge=10, le=86_400, description="Seconds until the served model must be ready, including its download."
    )
    request_timeout_seconds: int = Field(
        120,
        ge=1,
        le=86_400,
        description="Seconds until an answer must be complete, including its time in the engine's queue. For long "
        "answers at least a second per five tokens.",
    )
    active_deadline_seconds: int = Field(
        21_600, ge=60, le=31_536_000, description="Seconds until one version must have answered all items."
    )

"""Evaluation settings that FineTuneJob and ModelVersion share."""

from collections.abc import Iterable
from typing import Annotated

from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, Digest, Name, QueueName, StorageUri, cel, rule
from driftloop.api.engine import Engine
from driftloop.api.suite import SuiteSpec

MOST_ANCHORED = 8  # suites of an evaluation with an anchor: a termination message holds no more results


class Contract(ApiModel):
    """Recorded requests to the API, which a new version must answer as the stable version does."""

    uri: StorageUri = Field(
        description="File of requests as JSON lines: bodies of OpenAI's API, or objects with path, body and an "
        "optional id. The field model is replaced."
    )
    digest: Digest | None = Field(None, description="SHA-256 of the file. It is checked before use.")
    max_requests: int = Field(200, ge=1, le=2000, description="Maximum number of requests. The first ones are sent.")


def asked_uris(suites: Iterable[SuiteSpec], contract: Contract | None) -> list[str]:
    """The URIs of what a model is asked: the items of suites that have a file, and recorded requests."""
    return [*(suite.uri for suite in suites if suite.uri), *([contract.uri] if contract else [])]


class EvaluationSettings(ApiModel):
    """How the items of the suites are asked."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "self.reasoningTags.size() != 1",
                "reasoningTags needs a start and an end, or nothing",
                ".reasoningTags",
            ),
            rule(
                "!has(self.anchor) || self.suites.exists(s, has(s.totalDelta))",
                "anchor needs a suite with totalDelta, the loss that is accepted against it",
                ".anchor",
            ),
            rule(
                f"self.suites.size() <= {MOST_ANCHORED} || !self.suites.exists(s, has(s.totalDelta))",
                f"an evaluation with totalDelta has at most {MOST_ANCHORED} suites, as its results must fit into a "
                "termination message",
                ".suites",
            ),
        )
    )

    max_tokens: int = Field(
        32,
        ge=1,
        le=32_768,
        description="Maximum length of an answer, in tokens. A longer answer is cut and counts as wrong.",
    )
    reasoning_tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(
        default=["<think>", "</think>"],
        max_length=2,
        description="Start and end of a model's thoughts before its answer: only the text behind the end is scored. "
        "maxTokens counts both. Thoughts that the engine separates already are never scored. Empty: answers are scored "
        "as they are.",
    )
    contract: Contract | None = Field(
        None,
        description="Requests of the applications that use the model. The gate api also needs each of them to be "
        "answered in the form that OpenAI's API has, unless the stable version does not answer it either.",
    )
    anchor: Name | None = Field(
        None,
        description="ModelVersion of this namespace from which suites with `totalDelta` count the loss. If absent: the "
        "anchor that the stable version was compared with, and if it has none, the stable version itself. So it stays "
        "the version that was stable when `totalDelta` was set.",
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
        "answers set at least one second per five tokens.",
    )
    active_deadline_seconds: int = Field(
        21_600, ge=60, le=31_536_000, description="Seconds until one version must have answered all items."
    )

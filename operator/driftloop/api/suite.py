"""A suite of an evaluation: its items, what their answers are measured by, and the criterion of its gate."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, Digest, Fraction, Name, StorageUri, cel, exactly_one, rule
from driftloop.api.metric import Metric

Stop = Annotated[str, Field(min_length=1, max_length=256)]


class SuiteSpec(ApiModel):
    """One evaluation suite: a set of items, and the criterion that a version must meet on them."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            exactly_one("items", "uri"),
            rule(
                "self.metric.type != 'judge' || self.kind != 'floor'",
                "a judge compares two versions: use kind target or retention, or another metric",
                ".kind",
            ),
            rule(
                "!has(self.totalDelta) || self.kind == 'retention'",
                "totalDelta limits the loss of a retention suite: remove it, or use kind retention",
                ".totalDelta",
            ),
            rule(
                "!has(self.totalDelta) || (self.totalDelta > 0.0 && self.totalDelta >= self.delta)",
                "totalDelta must be above 0 and at least delta, which one version may already lose",
                ".totalDelta",
            ),
            rule(
                "!has(self.totalDelta) || self.metric.type != 'judge'",
                "a judge compares with the stable version only: remove totalDelta, or use another metric",
                ".totalDelta",
            ),
            rule("!has(self.topP) || self.temperature > 0.0", "topP needs a temperature above 0", ".topP"),
            rule("!has(self.seed) || self.temperature > 0.0", "seed needs a temperature above 0", ".seed"),
        )
    )
    name: Name = Field(description="Name of the suite.")
    kind: Literal["target", "retention", "floor"] = Field(
        description="target: the version must be better than the stable version. retention: the version must not be "
        "worse than the stable version. floor: the version must reach an absolute minimum."
    )
    items: Literal["data", "feedback", "replay"] | None = Field(
        None, description="Use the held-out rows of this part of the job's data. Set this or `uri`."
    )
    uri: StorageUri | None = Field(
        None,
        description="File of items: JSON lines, or CSV or Parquet by its file name extension. Columns: prompt or "
        "messages, and completion; optional: tools, id and cluster.",
    )
    digest: Digest | None = Field(None, description="SHA-256 of the items file at `uri`. It is checked before use.")
    independent_items: int | None = Field(
        None,
        ge=1,
        le=100_000,
        description="Number of independent items, if it is known: similar ones (a cluster) count as one. A job sets it "
        "in its version for suites with `items`. Only the plan in the version's status uses it.",
    )
    delta: Fraction = Field(
        0.05, description="retention: largest accepted loss of accuracy (mean score) against the stable version."
    )
    total_delta: Fraction | None = Field(
        None,
        description="retention: largest accepted loss against the anchor (`evaluation.anchor`), of all versions since "
        "then together. Without it each version may lose almost `delta` against the one before. At least `delta`.",
    )
    min_gain: Fraction = Field(
        0.0,
        description="target: the gain of accuracy over the stable version must be larger than this. The lower bound of "
        "the gain counts.",
    )
    minimum: Fraction = Field(0.5, description="floor: the lower bound of the accuracy must reach this.")
    metric: Metric = Field(default=Metric(), description="What the answers are measured by.")
    max_items: int = Field(2000, ge=10, le=100_000, description="Maximum number of items to ask.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=32_768,
        description="Maximum length of an answer, in tokens. If absent, `evaluation.maxTokens` applies.",
    )
    system_prompt: str | None = Field(
        None,
        min_length=1,
        max_length=8192,
        description="System message for items that have none. The model needs a chat template.",
    )
    stop: list[Stop] = Field(default=[], max_length=4, description="Texts at which an answer ends, without them.")
    temperature: float = Field(
        0.0, ge=0, le=2, description="Temperature of the answers. At 0 each token is the likeliest one."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Sample only from the likeliest tokens with this total probability."
    )
    seed: int | None = Field(None, ge=0, le=2_147_483_647, description="Seed of the samples. If absent, 0.")

"""A suite of an evaluation: its items, what their answers are measured by, and the criterion of its gate."""

from typing import Literal

from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, Digest, Fraction, Name, StorageUri, cel, exactly_one


class SuiteSpec(ApiModel):
    """One evaluation suite: a set of items, and the criterion that a version must meet on them."""

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
    delta: Fraction = Field(
        0.05, description="retention: largest accepted loss of accuracy against the stable version."
    )
    min_gain: Fraction = Field(
        0.0,
        description="target: the gain of accuracy over the stable version must be larger than this. The lower bound of "
        "the gain counts.",
    )
    minimum: Fraction = Field(0.5, description="floor: the lower bound of the accuracy must reach this.")
    max_items: int = Field(2000, ge=10, le=100_000, description="Maximum number of items to ask.")
    max_tokens: int | None = Field(
        None,
        ge=1,
        le=32_768,
        description="Maximum length of an answer, in tokens. If absent, `evaluation.maxTokens` applies.",
    )
    model_config = ConfigDict(json_schema_extra=cel(exactly_one("items", "uri")))

"""Results that a pod reports to the operator: one versioned JSON document of at most 4,096 bytes as termination
message.

The stage also writes the document to storage. If the stage runs again, it finds its output there and reports it again.
Unknown fields are ignored, and every field is bounded.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from driftloop.api.base import ApiModel, Digest
from driftloop.contract.names import TERMINATION_ENV, TERMINATION_LOG
from driftloop.contract.uris import join

RESULT_VERSION = 1
MAX_BYTES = 4096
MODEL_MANIFEST = ".model.json"  # in a prepared folder: the manifest of a model whose folder has none
ITEMS_FOLDER = "heldout"  # folder in a prepared folder with the items of the suites, <name>.jsonl
MAX_REASONS = 24
MAX_NOTES = 4
OTHER_REASONS = "other"
Count = Annotated[int, Field(ge=0, le=10**15)]
# A sum of scores in [0, 1]: a number of items if all of them are 0 or 1.
Sum = Annotated[int | float, Field(ge=0, le=10**15)]
Reason = Annotated[str, Field(max_length=40)]
MemoryKind = Annotated[str, Field(max_length=16)]


class ModelFacts(ApiModel):
    """Properties of the model that the plan needs. Sizes are numbers of elements."""

    model_type: str = Field(max_length=64)
    parameters: Count
    trainable_parameters: Count
    embedding_parameters: Count = 0
    largest_layer_parameters: Count = 0
    linear_parameters: Count = 0  # of the matrices of the linear layers in all decoder layers
    num_layers: Count
    hidden_size: Count
    intermediate_size: Count = 0
    num_attention_heads: Count = 0
    num_key_value_heads: Count = 0
    head_size: Count = 0  # 0: not recorded
    vocab_size: Count
    max_position_embeddings: Count
    tied_embeddings: bool = False
    chunked_loss: bool = False  # its logits are computed for some tokens at a time
    document_attention: bool = False  # with packing no mask keeps its rows apart
    position_scaling: str = Field("", max_length=64)  # its rotary positions depend on the longest row, by this rule
    left_whole: str = Field("", max_length=64)  # a module with weights that tensor parallelism would not split
    loaded_whole: bool = False  # its weights are rearranged when they are read, so rank 0 reads the whole model
    bare_parameters: Count = 0  # without an adapter: those that are served. 0: not recorded
    dtype: str = Field("", max_length=16)  # of the weights that are served
    cache_elements: Count = 0  # keys and values of a token, in the layers that keep those of all tokens. 0: unknown


class SuiteItems(ApiModel):
    """The items that prepare wrote for a suite."""

    name: str = Field(max_length=63)
    uri: str = Field("", max_length=512)  # empty: in ITEMS_FOLDER of the prepared folder
    digest: Digest  # sha256 of the file
    items: Count
    clusters: Count | None = None  # of similar items, each of which counts as one; None: not counted


class PrepareResult(ApiModel):
    """Prepared data."""

    kind: Literal["Prepare"] = "Prepare"
    result_version: int = RESULT_VERSION
    uri: str = Field(max_length=512)
    digest: Digest
    train_rows: Count
    sequences: Count = 0  # the unit of a batch: number of training rows, or of packs with packing
    validation_rows: Count = 0  # set aside of the training rows, and not counted there
    held_out_rows: Count
    feedback_rows: Count = 0
    replay_rows: Count = 0
    augmented_rows: Count = 0
    dropped_rows: Count = 0
    dropped: dict[Reason, Count] = Field(default={}, max_length=MAX_REASONS)  # dropped rows by reason
    reshaped: dict[Reason, Count] = Field(default={}, max_length=8)  # rows changed to be trained on, by kind of change
    notes: list[Annotated[str, Field(max_length=200)]] = Field(default=[], max_length=MAX_NOTES)  # for people
    tokens: Count
    trained_tokens: Count  # tokens that count in the loss
    longest_row_tokens: Count
    model_uri: str | None = Field(None, max_length=512)  # folder of a new model, or of the commit that a branch named
    model_digest: Digest | None = None  # of the model's folder; None if the task has it, or a commit tells what it is
    model_unlisted: bool = False  # the folder has no manifest: prepare has read all of it, and left one beside the data
    tokenizer_digest: Digest
    model: ModelFacts
    suites: list[SuiteItems] = Field(default=[], max_length=16)

    def items_uri(self, suite: SuiteItems) -> str:
        """The URI of a suite's items."""
        return suite.uri or join(self.uri, ITEMS_FOLDER, f"{suite.name}.jsonl")


class ValidationResult(ApiModel):
    """The losses on the rows that were set aside; None: not finite."""

    loss: float | None = None  # of the last validation
    best_loss: float | None = None  # the lowest
    best_step: Count = 0
    exported_step: Count  # whose weights the model has


class TrainResult(ApiModel):
    """A trained model."""

    kind: Literal["Train"] = "Train"
    result_version: int = RESULT_VERSION
    uri: str = Field(max_length=512)
    digest: Digest
    steps: Count  # that were done
    total_steps: Count | None = None  # of the plan; None: as many as were done
    loss: float
    validation: ValidationResult | None = None
    reward: dict[Reason, float] = Field(default={}, max_length=2)  # accuracy and margin of the last step, for dpo, kto
    tokens_per_second: float
    mfu: float | None = None  # model FLOPs utilisation; None if it is not known
    world_size: Count
    nodes: Count
    seconds: float
    peak_memory_bytes_per_worker: dict[MemoryKind, Count] = Field(default={}, max_length=4)
    resumed_from_step: Count = 0
    restarts: Count = 0
    skipped_steps: Count = 0  # their loss or gradient was not finite, so they changed no weight


class AnchorResult(ApiModel):
    """The paired comparison with the anchor. The fields are those of SuiteResult, with the anchor as baseline."""

    correct: Sum  # of the anchor's scores
    gained: Count | None = None
    lost: Count | None = None
    error: float = Field(ge=0)  # standard error of the paired difference
    lower: float | None = None
    upper: float | None = None
    look: Count | None = None  # number of this look at the items with the anchor; None: the first


class SuiteResult(ApiModel):
    """Paired results of one suite. Standard errors are those of the mean, clustered by item cluster.

    `lower` and `upper` are present if scores may be between 0 and 1: the one-sided bounds of the paired difference, or
    of the candidate's mean score without a baseline, as certain as `look` demands (contract/looks.py). For scores of 0
    and 1 the gate computes its bounds from the counts.
    """

    name: str = Field(max_length=63)
    items: Count
    clusters: Count
    correct: Sum  # of the candidate's scores
    standard_error: float = Field(ge=0)  # of the candidate's mean score
    baseline_correct: Sum | None = None
    gained: Count | None = None  # candidate right, baseline wrong; None if scores may be between 0 and 1
    lost: Count | None = None  # candidate wrong, baseline right
    difference_standard_error: float | None = None  # of the paired difference
    lower: float | None = None
    upper: float | None = None
    reliability: float | None = None  # of a judge's verdicts, in [0, 1]; the bounds are divided by it
    errors: Count = 0  # items that could not be answered; they count as wrong
    cut: Count | None = None  # answers of the candidate that the token limit cut; None: none
    baseline_cut: Count | None = None  # the same for the baseline
    look: Count | None = None  # number of this look at the items; None: the first
    anchor: AnchorResult | None = None  # of a suite with totalDelta


class ApiCheck(ApiModel):
    """Results of the requests that test the API contract."""

    passed: Count
    failed: list[Annotated[str, Field(max_length=160)]] = Field(default=[], max_length=8)
    # Answers that should be equal but sometimes differed: a served model may do so by chance.
    uncertain: list[Annotated[str, Field(max_length=160)]] = Field(default=[], max_length=8)


class AnswerResult(ApiModel):
    """The answers of one model: their folder and what was asked."""

    kind: Literal["Answer"] = "Answer"
    result_version: int = RESULT_VERSION
    uri: str = Field(max_length=512)
    digest: Digest
    model_digest: Digest
    items: Count
    engine: str = Field("", max_length=128)


class EvaluateResult(ApiModel):
    """Evaluation of a candidate: the API check and the results of its suites."""

    kind: Literal["Evaluate"] = "Evaluate"
    result_version: int = RESULT_VERSION
    uri: str = Field(max_length=512)
    digest: Digest
    candidate_digest: Digest
    baseline_digest: Digest | None = None
    anchor_digest: Digest | None = None
    api: ApiCheck
    suites: list[SuiteResult] = Field(max_length=16)
    engine: str = Field("", max_length=128)


class StageError(ApiModel):
    """Why a stage ended without a result. `reason` is in CamelCase. `message` explains what to fix."""

    kind: Literal["Error"] = "Error"
    result_version: int = RESULT_VERSION
    reason: str = Field(max_length=63)
    message: str = Field(max_length=2048)
    phase: str | None = Field(None, max_length=16)  # of a lack of memory beside the steps: contract/phase.py


AnyResult = PrepareResult | TrainResult | AnswerResult | EvaluateResult | StageError
Result = Annotated[AnyResult, Field(discriminator="kind")]
_ADAPTER: TypeAdapter[AnyResult] = TypeAdapter(Result)


def counted(reasons: Mapping[str, int], most: int = MAX_REASONS) -> dict[str, int]:
    """At most `most` counts by reason, the largest first. The remaining ones are summed as `other`."""
    counts = sorted(((reason[:40], count) for reason, count in reasons.items() if count), key=lambda item: -item[1])
    if len(counts) <= most:
        return dict(counts)
    return dict(counts[: most - 1]) | {OTHER_REASONS: sum(count for _, count in counts[most - 1 :])}


def fitting(result: PrepareResult) -> PrepareResult:
    """The result with as many reasons for dropped rows as fit into a termination message."""
    for most in range(MAX_REASONS, 1, -1):
        shortened = result.model_copy(update={"dropped": counted(result.dropped, most)})
        if _size(shortened) <= MAX_BYTES:
            return shortened
    return result.model_copy(update={"dropped": {}})


def fitting_evaluation(result: EvaluateResult) -> EvaluateResult:
    """The result without what a termination message has no room for, the least important first. Evidence has it all.

    These are the reliability of judges, the numbers of cut answers, and the ends of the API's faults.
    """
    shortened = result
    for fields in ({"reliability": None}, {"cut": None, "baseline_cut": None}):
        if _size(shortened) <= MAX_BYTES:
            return shortened
        suites = [suite.model_copy(update=fields) for suite in shortened.suites]
        shortened = shortened.model_copy(update={"suites": suites})
    for length in (80, 40, 20):
        if _size(shortened) <= MAX_BYTES:
            return shortened
        faults = {
            "failed": [f[:length] for f in result.api.failed],
            "uncertain": [f[:length] for f in result.api.uncertain],
        }
        shortened = shortened.model_copy(update={"api": result.api.model_copy(update=faults)})
    return shortened


def encode(result: AnyResult) -> str:
    """The JSON document. Raises ValueError above 4,096 bytes, as the kubelet would cut it."""
    if (size := _size(result)) > MAX_BYTES:
        raise ValueError(f"the result has {size} bytes, but a termination message can hold only {MAX_BYTES}")
    return _document(result)


def decode(document: str) -> AnyResult:
    """The result of a JSON document. Raises pydantic.ValidationError, which the operator reports."""
    return _ADAPTER.validate_json(document)


def emit(result: AnyResult) -> None:
    """Write the result as the termination message of this container."""
    Path(os.environ.get(TERMINATION_ENV, TERMINATION_LOG)).write_text(encode(result))


def _document(result: AnyResult) -> str:
    return result.model_dump_json(by_alias=True, exclude_none=True)


def _size(result: AnyResult) -> int:
    return len(_document(result).encode())

"""Why the plan chose what it chose, in words for the status. Pure."""

from typing import assert_never

from driftloop.api.finetunejob import CheckpointMode, GradientReduction


def why_rows(available: int | None, larger: tuple[int, int] | None, stages: int = 1) -> str:
    """Why a worker computes these rows at once. `larger`: the next larger number of rows, and the bytes it needs."""
    if larger is None or available is None:
        cut = f" in {stages} stages" if stages > 1 else ""
        return f"the most that trainBatchSize{cut}, perDeviceTrainBatchSize and status.adjustments allow"
    rows, needed = larger
    return f"{rows} rows would need {gib(needed)}, more than the {gib(available)} that are available"


def why_axes(workers_per_row: int, replicas: int, cause: str | None) -> str:
    """Why the workers divide the model so. `cause`: why shards alone are not enough; None if they are."""
    if cause is not None:
        return f"shards alone are not enough ({cause}): this has the fewest workers per row that are, {workers_per_row}"
    if replicas > 1:
        return f"each of {replicas} groups of nodes holds the model with as many rows at a time as all nodes would"
    return "shards alone are enough: each worker computes rows of its own"


def why_reduction(reduction: GradientReduction, gradients: int, most: int) -> str:
    """Why the gradients are added up then. `gradients`: bytes of the whole gradient; up to `most` are kept whole."""
    match reduction:
        case "step":
            return f"the whole gradient has {gib(gradients)}, at most {gib(most)}: adding it up once is faster"
        case "microBatch":
            return f"the whole gradient has {gib(gradients)}, more than {gib(most)}: no worker has to hold it"
        case never:
            assert_never(never)


def why_checkpoints(mode: CheckpointMode, limit: str | None) -> str:
    """Why checkpoints are written this way. `limit`: the pod's limit on memory."""
    match mode:
        case "asynchronous" if limit is None:
            return "the pods have no limit on memory: training goes on while a copy is written"
        case "asynchronous":
            return f"the pod's limit of {limit} has room for the copy that is written while training goes on"
        case "synchronous":
            return f"the pod's limit of {limit} has no room for a copy: training waits for each checkpoint"
        case never:
            assert_never(never)


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB"

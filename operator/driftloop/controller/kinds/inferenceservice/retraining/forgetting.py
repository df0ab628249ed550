"""Whether a retraining would be on new rows alone, and so forget what the model knew. Pure.

It is a warning and no obstacle, and the operator adds no rows by itself: `data.sources` may have the old rows already,
and the rows that a version was trained on may have been moved, changed or deleted since.
"""

from driftloop.api.finetunejob import FineTuneJobSpec

# bench/forgetting.py; docs/data.md has the whole table.
FORGETS = (
    "retraining.jobTemplate.spec.data has no replay: a retraining on new rows alone forgets old ones (measured on a "
    "small model: 11.5 % of the old questions were answered right after it, 80 % with all old rows). Set "
    "data.replay.sources to the old rows; if data.sources has them, move them there"
)


def forgetting(job: FineTuneJobSpec) -> str | None:
    """A warning; None if the job says what it replays (also with fraction: 0), or trains a new model."""
    is_new = job.model.from_.config is not None
    return None if is_new or job.data.replay is not None else FORGETS

"""What is valid, but worth a note: trainings that no test compares with plain training, retrainings that forget."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from driftloop.api.finetunejob import FineTuneJob, FineTuneJobSpec
from driftloop.api.inferenceservice import InferenceService
from driftloop.controller.kinds.finetunejob.cells import CELLS, cell_of, is_exact
from driftloop.controller.kinds.inferenceservice.retraining.forgetting import forgetting

ANY = "any type of model"


def notes_of(document: Mapping[str, Any]) -> list[str]:
    """The notes on a valid object."""
    match document.get("kind"):
        case "FineTuneJob":
            return list(_untested(FineTuneJob.model_validate(document).spec, "spec"))
        case "InferenceService":
            return list(_of_retraining(InferenceService.model_validate(document)))
        case _:
            return []


def _of_retraining(service: InferenceService) -> Iterator[str]:
    retraining = service.spec.retraining
    if retraining is None:
        return
    job = retraining.job_template.spec
    if warning := forgetting(job):
        yield f"spec.{warning}"
    yield from _untested(job, "spec.retraining.jobTemplate.spec")


def _untested(spec: FineTuneJobSpec, path: str) -> Iterator[str]:
    """What the job itself sets and no test covers, with no type of model if the manifest does not tell the type."""
    new = spec.model.from_.config
    known = None if new is None else str(new.architecture.get("model_type"))
    asked = bool(spec.training.compile) or spec.training.float8
    cell = cell_of(spec, known or ANY, compiled=asked)
    types = {cell.model_type for cell in CELLS} if known is None else {known}
    if cell is not None and not any(is_exact(replace(cell, model_type=model_type)) for model_type in types):
        yield f"{path}: untested: no test compares this with plain training: {cell}"

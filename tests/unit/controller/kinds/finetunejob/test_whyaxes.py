"""Each axis of a plan has its reason."""

from typing import Any

import pytest

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from unit.controller.kinds.finetunejob.test_axes import LARGE, MODEL, spec
from unit.controller.stages import prepared

AXES = {"pipeline", "replicate", "fsdp", "context", "tensor"}
GPT2 = MODEL.model_copy(update={"model_type": "gpt2"})
SMALL = MODEL.model_copy(update={"parameters": 10**9, "trainable_parameters": 10**8})
LONG: dict[str, Any] = {"maxLength": 131_072}


def reasons(job: FineTuneJobSpec, model: ModelFacts) -> dict[str, str]:
    found = plan(job, prepared(model=model, longest_row_tokens=job.training.max_length))
    assert isinstance(found, TrainingPlan), found
    status = found.status.reasons or {}
    assert set(status) >= AXES
    assert all(0 < len(reason) <= 256 for reason in status.values())
    return status


CHOICES = [
    (spec(), MODEL, "fsdp", "all 8 workers hold shards"),
    (spec(), MODEL, "replicate", "there is one node"),
    (spec(), MODEL, "context", "shards alone are enough"),
    (spec(2), MODEL, "replicate", "each of 2 groups of nodes holds the model"),
    (spec(2), MODEL, "fsdp", "what the other axes leave of 16 workers: 8"),
    (spec(2), GPT2, "replicate", "no test shows"),
    (spec(2, compute={"gpuMemory": None}), MODEL, "replicate", "the memory of a GPU is unknown"),
    (spec(2, gpus=1), MODEL, "replicate", "only nodes with several GPUs"),
    (spec(2, compute={"elastic": {"minNodes": 1}}), MODEL, "replicate", "compute.elastic is not tested"),
    (spec(2, compute={"gpuMemory": "40Gi"}), MODEL, "replicate", "fewer nodes would not hold"),
    (spec(**LONG), MODEL, "context", "one row fits with 2, and with no fewer workers per row"),
    (spec(**LONG), MODEL, "tensor", "the other axes need as few workers per row"),
    (spec(2, **LONG), MODEL, "replicate", "one row needs the memory of all nodes"),
    (spec(2, compute={"elastic": {"minNodes": 1}}, **LONG), MODEL, "context", "compute.elastic is not tested"),
    (spec(adapter={"type": "osf"}, **LONG), MODEL, "tensor", "no test shows"),
    (spec(compute={"parallelism": {"tensor": 2}}), MODEL, "tensor", "compute.parallelism.tensor is 2"),
    (spec(compute={"parallelism": {"tensor": 2}}), MODEL, "replicate", "compute.parallelism.dataReplicate is 1"),
    (spec(compute={"parallelism": {"tensor": 2}}), MODEL, "fsdp", "what the other axes leave of 8 workers: 4"),
    (spec(gpus=1, adapter={"type": "lora"}), SMALL, "fsdp", "there is one worker"),
    (spec(2), LARGE, "context", "one row fits with 2"),
]


@pytest.mark.parametrize(("job", "model", "axis", "reason"), CHOICES)
def test_the_reason_for_an_axis(job: FineTuneJobSpec, model: ModelFacts, axis: str, reason: str) -> None:
    assert reasons(job, model)[axis].startswith(reason)

"""The plan shows how rows attend and what computes the layers, as the workers decide it, with the reasons."""

import re
from typing import Any

import pytest

from driftloop.api.finetunejob import FineTuneJobSpec, PlanStatus
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from unit.controller.kinds.finetunejob.test_axes import MODEL, spec
from unit.controller.stages import prepared


def status(job: FineTuneJobSpec, model: ModelFacts = MODEL) -> PlanStatus:
    found = plan(job, prepared(model=model))
    assert isinstance(found, TrainingPlan), found
    return found.status


MASKED = MODEL.model_copy(update={"model_type": "gemma2", "document_attention": False})
WIDE = MODEL.model_copy(update={"head_size": 288})
CASES: list[tuple[dict[str, Any], dict[str, Any], ModelFacts, str, str]] = [
    ({}, {}, MODEL, "sdpa", "rows are not packed"),
    ({}, {"packing": True}, MODEL, "varlen", "packed rows attend to themselves alone, in one call"),
    ({"parallelism": {"context": 2}}, {}, MODEL, "varlen", "workers share the tokens of rows, in one call"),
    ({}, {"packing": True, "bf16": False}, MODEL, "perDocument", ".*needs training.bf16"),
    ({}, {"packing": True}, WIDE, "perDocument", ".*heads of at most 256"),
    ({}, {"packing": True}, MASKED, "mask", ".*by a mask"),
]


@pytest.mark.parametrize(("compute", "training", "model", "attention", "reason"), CASES)
def test_how_rows_attend(
    compute: dict[str, Any], training: dict[str, Any], model: ModelFacts, attention: str, reason: str
) -> None:
    found = status(spec(compute=compute, **training), model)
    assert found.attention == attention
    assert found.reasons is not None
    assert re.match(reason, found.reasons["attention"])


def test_on_cpus_packed_rows_attend_one_after_the_other() -> None:
    found = status(spec(gpus=0, compute={"gpuMemory": None}, packing=True))
    assert found.attention == "perDocument"
    assert "on CPUs" in (found.reasons or {})["attention"]


@pytest.mark.parametrize(
    ("training", "kernels"), [({}, "compiled"), ({"compile": False}, "torch"), ({"float8": True}, "float8")]
)
def test_what_computes_the_layers(training: dict[str, Any], kernels: str) -> None:
    found = status(spec(compute={"parallelism": {}}, **training))
    assert found.kernels == kernels
    assert "the loss is computed for some tokens at a time" in (found.reasons or {})["kernels"]
    whole = MODEL.model_copy(update={"chunked_loss": False})
    assert "for all tokens at once" in (status(spec(**training), whole).reasons or {})["kernels"]


def test_a_training_of_the_user_s_own_decides_itself() -> None:
    found = status(spec(entrypoint="own:train"))
    assert (found.attention, found.kernels) == (None, None)
    assert not {"attention", "kernels"} & set(found.reasons or {})

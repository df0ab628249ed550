"""A training multiplies in float8 where that is tested, or the plan says why not and what to change."""

import pytest

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.plan import Refusal, TrainingPlan, plan
from driftloop.controller.kinds.finetunejob.remedies import plan_or_remedy
from driftloop.controller.vocabulary.reasons import Reason
from unit.controller.kinds.finetunejob.test_compiling import GEMMA, LLAMA, on_two
from unit.controller.kinds.finetunejob.test_plan import gpu_job, spec
from unit.controller.stages import facts, prepared


def planned(job: FineTuneJobSpec, model: ModelFacts = LLAMA) -> TrainingPlan:
    found = plan(job, prepared(model=model))
    assert isinstance(found, TrainingPlan), found
    return found


def test_it_is_an_option_that_the_plan_shows() -> None:
    assert not planned(gpu_job(8, None)).status.float8
    status = planned(gpu_job(8, None, float8=True)).status
    assert status.float8
    assert status.compile
    for axis in ("pipeline", "dataReplicate"):
        assert planned(on_two(axis, float8=True)).status.float8


def test_its_estimate_is_never_below_that_of_bfloat16() -> None:
    for fields in ({}, {"gradientCheckpointing": True}, {"packing": True}):
        half, eighth = (
            planned(gpu_job(8, None, float8=float8, **fields)).status.memory_bytes_per_worker
            for float8 in (False, True)
        )
        assert all(eighth[part] >= half[part] for part in half)


ODD = LLAMA.model_copy(update={"intermediate_size": 14_330})
WRONG = [
    (spec(training={"float8": True}), facts(), "which needs GPUs: set compute.gpusPerNode, or remove"),
    (gpu_job(8, None, float8=True, adapter={"type": "lora"}), LLAMA, "trained: remove training.adapter, or remove"),
    (gpu_job(8, None, float8=True, compile=False), LLAMA, "slower than bfloat16: remove training.compile, or remove"),
    (gpu_job(8, None, float8=True, bf16=False), LLAMA, "bfloat16 for all else: remove training.bf16, or remove"),
    (gpu_job(8, None, float8=True), GEMMA, "not tested with models of type gemma2, only with llama, mistral"),
    (gpu_job(8, None, float8=True, method="dpo"), LLAMA, "not tested with training.method dpo: remove training.float8"),
    (on_two("tensor", float8=True), LLAMA, "not tested with compute.parallelism.tensor: remove training.float8"),
    (on_two("context", float8=True), LLAMA, "not exact with compute.parallelism.context: remove one of them"),
    (gpu_job(8, None, float8=True), ODD, "the model's intermediate_size 14330 is not a multiple of 16"),
]


@pytest.mark.parametrize(("job", "model", "message"), WRONG)
def test_what_is_not_tested_or_not_faster_is_refused(job: FineTuneJobSpec, model: ModelFacts, message: str) -> None:
    refusal = plan(job, prepared(model=model))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.FLOAT8_UNSUPPORTED
    assert refusal.message.startswith("training.float8 is true, ")
    assert message in refusal.message


def test_a_plan_that_divides_further_shares_no_matrices_and_no_change_contradicts_float8() -> None:
    tight = gpu_job(8, "30Gi", float8=True).model_copy(deep=True)
    left = tight.model_copy(update={"compute": tight.compute.model_copy(update={"parallelism": None})})
    match plan_or_remedy(left, prepared(model=LLAMA.model_copy(update={"parameters": 40_000_000_000}))):
        case TrainingPlan(parallelism=way):
            assert way.tensor == 1
        case Refusal(_, message):
            assert "lora" not in message

"""A training is compiled on GPUs where that is tested, and where the spec demands it, or the plan says why not."""

import pytest

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.plan import Refusal, TrainingPlan, plan
from driftloop.controller.vocabulary.reasons import Reason
from unit.controller.kinds.finetunejob.test_plan import LLAMA_8B, gpu_job, spec
from unit.controller.stages import facts, prepared

LLAMA = LLAMA_8B.model_copy(update={"parameters": 500_000_000, "trainable_parameters": 500_000_000})
SMALL = facts()
GEMMA = LLAMA.model_copy(update={"model_type": "gemma2"})


def planned(job: FineTuneJobSpec, model: ModelFacts = LLAMA) -> tuple[bool, str]:
    found = plan(job, prepared(model=model))
    assert isinstance(found, TrainingPlan), found
    reason = (found.status.reasons or {})["compile"]
    assert len(reason) <= 256
    return found.status.compile, reason


def on_two(axis: str, **training: object) -> FineTuneJobSpec:
    """A training on two GPUs that share something."""
    return spec(compute={"nodes": 1, "gpusPerNode": 2, "parallelism": {axis: 2}}, training=training)


def test_on_gpus_it_is_the_default_and_on_cpus_it_is_not() -> None:
    assert planned(gpu_job(8, None)) == (True, "a GPU computes compiled layers faster")
    assert planned(gpu_job(8, None, adapter={"type": "lora"}, packing=True))[0]
    compiled, reason = planned(spec(), SMALL)
    assert not compiled
    assert reason.startswith("on CPUs")


def test_what_the_spec_says_is_done() -> None:
    assert planned(gpu_job(8, None, compile=False)) == (False, "training.compile is false")
    assert planned(spec(training={"compile": True}), SMALL) == (True, "training.compile is true")
    for axis in ("context", "pipeline", "dataReplicate"):
        assert planned(on_two(axis, compile=True)) == (True, "training.compile is true")


UNTESTED = [
    (gpu_job(8, None, compile=None), GEMMA, "models of type gemma2, only with llama, "),
    (on_two("tensor"), LLAMA, "compute.parallelism.tensor"),
    (gpu_job(8, None, method="dpo"), LLAMA, "training.method dpo"),
    (gpu_job(8, None, entrypoint="mine:train"), LLAMA, "training.entrypoint"),
]


@pytest.mark.parametrize(("job", "model", "setting"), UNTESTED)
def test_with_what_is_not_tested_it_is_not_the_default_and_is_refused(
    job: FineTuneJobSpec, model: ModelFacts, setting: str
) -> None:
    compiled, reason = planned(job, model)
    assert not compiled
    assert reason.startswith(f"compiling is not tested with {setting}")
    demanded = job.model_copy(update={"training": job.training.model_copy(update={"compile": True})})
    refusal = plan(demanded, prepared(model=model))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == Reason.COMPILE_UNSUPPORTED
    assert refusal.message.startswith(f"training.compile is true, which is not tested with {setting}")
    assert refusal.message.endswith("remove training.compile")

"""What the plan chooses by itself is a cell of the table; a job that asks for another one is told so."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import FineTuneJobSpec, Parallelism
from driftloop.contract.result import ModelFacts
from driftloop.controller.kinds.finetunejob.axes import SHARDS, divided, replicas, ways
from driftloop.controller.kinds.finetunejob.cells import CELLS, CLAIMS, Cell, cell_of, is_exact
from driftloop.controller.kinds.finetunejob.compiling import is_compiled
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from unit.controller.kinds.finetunejob.test_axes import MODEL, spec
from unit.controller.stages import prepared

TYPES = [*sorted({cell.model_type for cell in CELLS}), "bloom", "qwen3_moe"]
ADAPTERS: list[dict[str, Any]] = [{"type": kind} for kind in ("none", "lora", "qlora", "osf")]
ADAPTERS += [{"type": "lora", "targetModules": ["q_proj"]}]
JOBS = st.builds(
    spec,
    nodes=st.integers(1, 4),
    gpus=st.sampled_from([0, 1, 4, 8]),
    adapter=st.sampled_from(ADAPTERS),
    method=st.sampled_from(["sft", "pretrain", "dpo", "kto"]),
    packing=st.booleans(),
)


def of_type(model_type: str) -> ModelFacts:
    return MODEL.model_copy(update={"model_type": model_type})


def exactness(job: FineTuneJobSpec, model: ModelFacts = MODEL) -> str:
    found = plan(job, prepared(model=model))
    assert isinstance(found, TrainingPlan), found
    return (found.status.reasons or {})["exactness"]


@given(job=JOBS, model=st.sampled_from(TYPES).map(of_type))
def test_every_choice_of_the_plan_is_exact(job: FineTuneJobSpec, model: ModelFacts) -> None:
    chosen = [way for way in ways(job, model) if way != SHARDS]
    chosen += [Parallelism(data_replicate=count) for count in replicas(job, model)]
    for way in chosen:
        planned = divided(job, way)
        assert is_exact(cell_of(planned, model.model_type, compiled=is_compiled(planned, model)))
    if is_compiled(divided(job, SHARDS), model):
        assert is_exact(cell_of(divided(job, SHARDS), model.model_type, compiled=True))


@pytest.mark.parametrize("model_type", ["mistral", "qwen2", "gemma", "gemma3_text", "phi"])
def test_rows_of_all_tested_types_are_cut_if_all_weights_are_trained(model_type: str) -> None:
    assert {way.context for way in ways(spec(), of_type(model_type))} >= {1, 2, 4, 8}
    assert list(ways(spec(adapter={"type": "lora"}), of_type(model_type))) == [SHARDS]


SETTINGS: list[tuple[dict[str, Any], dict[str, Any], str, str]] = [
    ({"parallelism": {}}, {}, "llama", "exact: a test compares this with plain training: llama, sft, compiled, fsdp"),
    ({"parallelism": {"pipeline": 2}}, {}, "mistral", "exact: .*: mistral, sft, pipeline x fsdp"),
    ({"parallelism": {"pipeline": 2, "dataReplicate": 2}}, {}, "mistral", "untested: .*, pipeline x replicate x fsdp"),
    (
        {"parallelism": {"context": 2}},
        {"adapter": {"type": "qlora"}},
        "llama",
        "untested: .*adapter qlora, fsdp x context",
    ),
    ({}, {"method": "dpo"}, "gemma", "untested: .*: gemma, dpo, fsdp"),
    (
        {},
        {"compile": True, "packing": True, "adapter": {"type": "qlora"}},
        "llama",
        "untested: .*packed rows, compiled",
    ),
    ({}, {"packing": True}, "gemma", "untested: .*: gemma, sft, packed rows, fsdp"),
    ({}, {}, "bloom", "untested: .*: bloom, sft, fsdp"),
    ({}, {"entrypoint": "own:train"}, "llama", "untested: what training.entrypoint computes"),
]


@pytest.mark.parametrize(("compute", "training", "model_type", "told"), SETTINGS)
def test_the_plan_tells_whether_a_setting_is_tested(
    compute: dict[str, Any], training: dict[str, Any], model_type: str, told: str
) -> None:
    reason = exactness(spec(compute=compute, **training), of_type(model_type))
    assert re.match(told, reason), reason


def test_the_reason_fits_into_the_status() -> None:
    adapter = {"type": "lora", "targetModules": [f"layers.{number}.self_attn.q_proj" for number in range(32)]}
    assert len(exactness(spec(adapter=adapter))) == 256


def test_a_case_with_shards_stands_for_the_same_without() -> None:
    staged = Cell("qwen3", frozenset(("pipeline",)), adapter="lora", packing=True)
    assert staged not in CELLS
    assert is_exact(staged)
    assert not is_exact(Cell("mistral", frozenset(("pipeline", "fsdp")), adapter="lora"))
    assert not is_exact(None)


def test_each_claim_adds_a_cell() -> None:
    for number, claim in enumerate(CLAIMS):
        others = {cell for other in CLAIMS[:number] + CLAIMS[number + 1 :] for cell in other.cells()}
        assert not set(claim.cells()) <= others, claim

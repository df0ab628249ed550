"""The plan's estimate of memory is what torch's memory tracker counts, for models of 1B to 70B on seven kinds of grids.

A part is compared with the most that the tracker counted of it at any time, and `training` with the most of all
together. The lengths are no size of a matrix, by which the tracker tells gradients from activations.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.pipelining.schedules import _get_warmup_ops
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter, Parallelism, TrainingSpec
from driftloop.contract.interleaving import in_equal_rounds, rounds
from driftloop.contract.result import ModelFacts
from driftloop.contract.textstats import PROFILE, build_profile
from driftloop.controller.kinds.finetunejob.memory import gradient_reduction, largest_stage, memory_per_worker, waiting
from driftloop_trainer.dataset import write_turn_ends
from driftloop_trainer.models import config_for, model_facts
from parts import sweep
from unit.controller.stages import prepared
from unit.trainer import templates
from unit.trainer.memory_tracker import PARTS, TOTAL, tracked
from unit.trainer.templates import with_template
from unit.trainer.train.worker.test_export import task_document

LLAMA = {"model_type": "llama", "max_position_embeddings": 8192, "num_key_value_heads": 8, "vocab_size": 128_256}


def architecture(hidden: int, inner: int, layers: int, heads: int, *, tied: bool = False, **fields: Any) -> Any:
    sizes = {"hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers}
    return LLAMA | sizes | {"num_attention_heads": heads, "tie_word_embeddings": tied} | fields


MODELS = {
    "1b": architecture(2048, 8192, 16, 32, tied=True),
    "2b": architecture(
        2304, 9216, 6, 8, tied=True, model_type="gemma2", num_key_value_heads=4, head_dim=256, vocab_size=256_000
    ),
    "3b": architecture(3072, 8192, 28, 24, tied=True),
    "8b": architecture(4096, 14_336, 32, 32),
    "14b": architecture(5120, 17_408, 40, 40, model_type="qwen3", head_dim=128, vocab_size=151_936),
    "32b": architecture(5120, 27_648, 64, 40, model_type="qwen2", vocab_size=152_064),
    "70b": architecture(8192, 28_672, 80, 64),
}
# Types whose layers keep other tensors than Llama's, or that cap their logits.
TYPES = (
    *("apertus", "exaone4", "gemma", "gemma3_text", "glm4", "helium", "hunyuan_v1_dense", "nanochat", "olmo2", "olmo3"),
)
MODELS |= {
    model_type: architecture(2048, 8192, 8, 16, tied=True, model_type=model_type, num_key_value_heads=4, head_dim=128)
    | {"vocab_size": 64_000, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    for model_type in TYPES
}
MODELS |= {
    f"wide {model_type}": architecture(3072, 8192, 8, 24, model_type=model_type, vocab_size=64_000, pad_token_id=0)
    for model_type in ("llama", "phi3")
}


@dataclass(frozen=True)
class Case:
    """A training. `rows`: at a time. `batches`: micro-batches per step."""

    model: str
    world_size: int = 1
    rows: int = 1
    batches: int = 1
    length: int = 2000
    checkpointing: bool = True
    adapter: dict[str, Any] = field(default_factory=dict)
    parallelism: Parallelism = field(default_factory=Parallelism)
    logits: str | None = None

    @property
    def groups(self) -> int:
        return self.world_size // (self.parallelism.pipeline * self.parallelism.context * self.parallelism.tensor)

    @property
    def training(self) -> TrainingSpec:
        fields = {"train_batch_size": self.rows * self.batches * self.groups, "max_length": self.length, "bf16": True}
        return TrainingSpec.model_validate(
            fields
            | {"gradient_checkpointing": self.checkpointing, "adapter": self.adapter, "logits_memory": self.logits}
        )


LORA = {"type": "lora"}
CASES = {
    "1b": Case("1b", rows=4, checkpointing=False),
    "1b checkpointing": Case("1b", rows=4),
    "1b fsdp4 accumulating": Case("1b", 4, rows=2, batches=2, checkpointing=False),
    "2b capped": Case("2b", checkpointing=False),
    "3b fsdp8 lora": Case("3b", 8, length=4000, checkpointing=False, adapter=LORA),
    "3b fsdp8 lora dropout": Case("3b", 8, checkpointing=False, adapter=LORA | {"lora_dropout": 0.1}),
    "8b lora, few logits": Case("8b", rows=2, length=4000, adapter=LORA, logits="64Mi"),
    "1b fsdp4, fewest logits": Case("1b", 4, rows=2, logits="16Mi"),
    "8b lora": Case("8b", rows=2, length=4000, adapter=LORA),
    "8b fsdp8 qlora": Case("8b", 8, length=4000, adapter={"type": "qlora"}),
    "70b qlora": Case("70b", length=2000, adapter={"type": "qlora"}),
    "8b fsdp8 accumulating": Case("8b", 8, rows=2, batches=2, length=4000),
    "8b fsdp4 x tensor2": Case("8b", 8, checkpointing=False, parallelism=Parallelism(tensor=2)),
    "wide llama, fsdp2 x tensor4": Case("wide llama", 8, rows=4, length=4000, parallelism=Parallelism(tensor=4)),
    "wide phi3, fsdp2 x tensor4": Case("wide phi3", 8, rows=4, length=4000, parallelism=Parallelism(tensor=4)),
    "wide phi3, fsdp4 x tensor2": Case("wide phi3", 8, rows=4, length=4000, parallelism=Parallelism(tensor=2)),
    "8b fsdp2 x context4": Case("8b", 8, length=8000, parallelism=Parallelism(context=4)),
    "3b context2": Case("3b", 2, length=4000, checkpointing=False, parallelism=Parallelism(context=2)),
    "14b replicate2 x fsdp8": Case("14b", 16, length=4000, parallelism=Parallelism(data_replicate=2)),
    "14b pipeline2 x fsdp4": Case("14b", 8, batches=4, length=4000, parallelism=Parallelism(pipeline=2)),
    "32b fsdp4 x tensor8": Case("32b", 32, length=4000, parallelism=Parallelism(tensor=8)),
    "70b fsdp64": Case("70b", 64, length=4000),
    "70b fsdp8 x tensor8": Case("70b", 64, length=4000, parallelism=Parallelism(tensor=8)),
    "70b fsdp8 lora": Case("70b", 8, length=4000, adapter=LORA),
} | {model_type: Case(model_type, rows=2, checkpointing=False) for model_type in TYPES}
MAIN = ["1b fsdp4 accumulating"]


@pytest.mark.parametrize("name", sweep("memory", CASES, MAIN))
def test_the_plan_knows_what_the_tracker_counts(name: str) -> None:
    case = CASES[name]
    planned, counted = planned_memory(case), tracked_memory(case)
    planned["activations"] += planned["scores"]  # the tracker can't tell scores from other activations
    least = counted[TOTAL] // 500  # parts that differ by less do not matter
    far = {
        part: (planned[part], counted[part])
        for part in PARTS
        if abs(planned[part] - counted[part]) > max(least, 0.1 * counted[part])
    }
    assert not far
    assert 0.97 <= (planned["training"] - planned["runtime"]) / counted[TOTAL] <= 1.1


def planned_memory(case: Case) -> dict[str, int]:
    training = case.training
    facts = model_facts(config_for(MODELS[case.model]), training.adapter)
    data = prepared(model=facts, longest_row_tokens=case.length)
    return memory_per_worker(training, data, case.groups, case.rows, on_gpu=True, parallelism=case.parallelism)


def tracked_memory(case: Case) -> dict[str, int]:
    """The most of each part over the first and the last stage."""
    stage = largest_stage(model_facts(config_for(MODELS[case.model]), case.training.adapter), case.parallelism)
    ranks = {0, case.world_size - 1} if case.parallelism.pipeline > 1 else {0}
    counted = [
        tracked(
            MODELS[case.model],
            case.training,
            case.parallelism,
            world_size=case.world_size,
            rows=case.rows,
            batches=case.batches,
            reduction=gradient_reduction(stage),
            rank=rank,
        )
        for rank in ranks
    ]
    return {part: max(found[part] for found in counted) for part in counted[0]}


REARRANGED = {"model_type": "olmo_hybrid", "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8}


@pytest.mark.long("memory")
@pytest.mark.timeout(600)
def test_the_plan_knows_what_a_model_takes_that_one_worker_loads_and_exports_whole(tmp_path: Path) -> None:
    facts = _write_whole_models(tmp_path)
    assert facts.loaded_whole
    environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "DRIFTLOOP_VOLUMES": str(tmp_path)}
    script = Path(__file__).with_name("whole_memory.py")
    ended = subprocess.run(
        [sys.executable, script, tmp_path], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    measured = json.loads(ended.stdout.splitlines()[-1])
    data = prepared(model=facts)
    planned = memory_per_worker(TrainingSpec(), data, 1, 1, on_gpu=False)
    ratios = {part: (planned[part] - planned["runtime"]) / size for part, size in measured.items()}
    assert all(0.95 <= ratio <= 1.15 for ratio in ratios.values()), ratios


def _write_whole_models(folder: Path) -> ModelFacts:
    """The base model, a small one of the same type, the data and the task. Returns the facts about the base model."""
    vocabulary = {"rearranged": 32_768, "small": 129}
    for name, size in vocabulary.items():
        config = config_for(REARRANGED | SIZES | {"vocab_size": size, "num_key_value_heads": 8})
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        model.save_pretrained(folder / name)
        with_template(templates.CHATML).save_pretrained(folder / name)
    (folder / "data").mkdir()
    write_turn_ends(folder / "data", [2])
    (folder / "data" / PROFILE).write_text(json.dumps(build_profile(["hi"])))
    (folder / "task.json").write_text(json.dumps(task_document()))
    return model_facts(config_for(REARRANGED | SIZES | {"vocab_size": 32_768, "num_key_value_heads": 8}), Adapter())


@given(workers=st.integers(2, 8), stages=st.integers(2, 4), batches=st.integers(1, 80), layers=st.integers(1, 4))
def test_the_activations_that_wait_are_those_of_torch_s_interleaved_schedule(
    workers: int, stages: int, batches: int, layers: int
) -> None:
    parallelism = Parallelism(pipeline=workers, stages_per_worker=stages)
    count = in_equal_rounds(batches, workers)
    before_the_first_backward_pass = _get_warmup_ops(0, stages, count // rounds(count, workers), workers, count)
    passes = min(count * stages, before_the_first_backward_pass + 1)
    assert waiting(layers * stages, batches, parallelism) == passes * layers

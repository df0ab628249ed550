"""The cells of training that tests compare with plain training: type, method, adapter, axes and packing. Pure.

What the plan chooses by itself is a cell of this table. A job may ask for others that are not refused; the plan then
says that they are untested. docs/architecture.md shows the table (deploy/generate.py).

tests/unit/trainer/test_cells.py compares the table with the cases of the tests that prove it:

- `sft` and `pretrain`: test_exactness.py, and test_cell_exactness.py for the cells of which that has no case;
- compiled: test_compiled_exactness.py and test_cell_exactness.py; in float8: test_float8_exactness.py;
- `dpo` and `kto`: test_preference_exactness.py.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from driftloop.api.finetunejob import Compute, FineTuneJobSpec, Parallelism, TrainingMethod, TrainingSpec

Axis = Literal["pipeline", "stages", "replicate", "fsdp", "context", "tensor"]  # stages: several per worker
AXES: tuple[Axis, ...] = ("pipeline", "stages", "replicate", "fsdp", "context", "tensor")

# Types of models that are split and cut into stages exactly (tests/unit/trainer/test_exactness.py).
PIPELINE_TYPES = (
    *("apertus", "arcee", "cohere", "cohere2", "cwm", "doge", "ernie4_5", "exaone4", "gemma", "gemma2", "gemma3_text"),
    *("glm", "glm4", "gpt_neox", "granite", "granite_swa", "helium", "hyperclovax", "internlm3", "iquestcoder"),
    *("jais2", "llama", "minicpm3", "ministral", "ministral3", "mistral", "olmo", "olmo2", "olmo3", "phi", "phi3"),
    *("qwen2", "qwen3", "seed_oss", "smollm3", "starcoder2", "vaultgemma", "youtu"),
)
# Types whose matrices are split exactly. transformers has no plan for stages of the last two.
TENSOR_TYPES = (*PIPELINE_TYPES, "nanochat", "nemotron")
# Types whose tokens are shared exactly. The others cap their scores (gemma2, vaultgemma), have weights in their softmax
# (granite_swa) or a mask of their own (doge), have values of another size than keys (minicpm3, youtu), or don't pass on
# what attention needs (nemotron).
CONTEXT_TYPES = (
    *("apertus", "arcee", "cohere", "cohere2", "cwm", "ernie4_5", "exaone4", "gemma", "gemma3_text", "glm", "glm4"),
    *("gpt_neox", "granite", "helium", "hunyuan_v1_dense", "hyperclovax", "internlm3", "iquestcoder", "jais2", "llama"),
    *("ministral", "ministral3", "mistral", "mixtral", "nanochat", "olmo", "olmo2", "olmo3", "phi", "phi3", "qwen2"),
    *("qwen3", "seed_oss", "smollm3", "starcoder2"),
)
# Types that FSDP2 alone shards exactly.
_MORE_SHARDED = (
    *("deepseek_v3", "ernie4_5_moe", "glm4_moe", "gpt2", "gpt_oss", "granitemoe", "hrm_text", "olmoe"),
    *("opt", "qwen2_moe", "qwen3_5_text", "qwen3_moe", "stablelm"),
)
SHARDED_TYPES = tuple(sorted({*TENSOR_TYPES, *CONTEXT_TYPES, *_MORE_SHARDED}))


@dataclass(frozen=True)
class Cell:
    """What decides whether a training is compared with plain training."""

    model_type: str
    axes: frozenset[Axis]  # over which the model or its rows are divided
    adapter: str = "none"  # with its modules, if these are not all linear layers
    packing: bool = False
    method: TrainingMethod = "sft"  # also for pretrain, which has the same loss
    compiled: bool = False
    float8: bool = False

    def __str__(self) -> str:
        """The cell in words."""
        adapter = "" if self.adapter == "none" else f", adapter {self.adapter}"
        flags = {"packed rows": self.packing, "compiled": self.compiled, "float8": self.float8}
        others = "".join(f", {name}" for name, is_on in flags.items() if is_on)
        return f"{self.model_type}, {self.method}{adapter}{others}, {grid(self.axes)}"


@dataclass(frozen=True)
class Claim:
    """Cells that are tested: all combinations."""

    axes: str
    types: tuple[str, ...]
    adapters: tuple[str, ...] = ("none",)
    packing: tuple[bool, ...] = (False,)
    methods: tuple[TrainingMethod, ...] = ("sft",)
    compiled: bool = False
    float8: bool = False

    def cells(self) -> Iterator[Cell]:
        """Each of them."""
        axes = frozenset(axis for axis in AXES if axis in self.axes.split())
        for model_type, adapter, packing, method in product(self.types, self.adapters, self.packing, self.methods):
            yield Cell(model_type, axes, adapter, packing, method, self.compiled, self.float8)


_BOTH, _MAIN = ("llama", "qwen3"), ("llama", "mistral", "qwen2", "qwen3")
# Types whose rows, shards, replicas and stages are also tested together.
_ALL = (
    *("gemma", "gemma3_text", "granite", "llama", "mistral", "mixtral", "olmo2", "olmo3", "phi", "phi3"),
    *("qwen2", "qwen3", "smollm3", "starcoder2"),
)
_STAGED = tuple(model_type for model_type in _ALL if model_type in PIPELINE_TYPES)
_LORA, _ROUNDED, _EITHER = ("none", "lora"), ("qlora", "osf"), (False, True)
CLAIMS = (
    Claim("fsdp", SHARDED_TYPES),
    Claim("fsdp", _ALL, _LORA),
    Claim("fsdp", _MAIN, _LORA, packing=_EITHER),
    Claim("replicate fsdp", _ALL),
    Claim("replicate fsdp", _MAIN, _LORA, packing=_EITHER),
    Claim("replicate", ("llama",)),
    Claim("tensor fsdp", TENSOR_TYPES),
    Claim("tensor fsdp", _BOTH, _LORA, packing=_EITHER),
    Claim("tensor fsdp", ("phi3", "youtu"), ("lora",)),
    Claim("replicate tensor", _BOTH, _LORA),
    Claim("context", CONTEXT_TYPES),
    Claim("context", ("llama", "mistral"), packing=(True,)),
    Claim("context fsdp", _ALL),
    Claim("context fsdp", _BOTH, _LORA, packing=_EITHER),
    Claim("context replicate", _BOTH),
    Claim("context tensor fsdp", _BOTH, _LORA),
    Claim("context pipeline", ("llama",), _LORA),
    Claim("context pipeline", ("llama",), packing=(True,)),
    Claim("context pipeline tensor", ("llama",)),
    Claim("context pipeline replicate", ("qwen3",)),
    Claim("pipeline", PIPELINE_TYPES),
    Claim("pipeline fsdp", _STAGED),
    Claim("pipeline fsdp", _BOTH, _LORA, packing=_EITHER),
    Claim("pipeline tensor fsdp", _BOTH, _LORA),
    Claim("pipeline replicate", ("llama",), _LORA),
    Claim("pipeline replicate fsdp", ("qwen3",)),
    Claim("pipeline replicate tensor", ("llama",), ("lora",)),
    Claim("pipeline stages", _BOTH),
    Claim("pipeline stages", ("llama",), packing=(True,)),
    Claim("pipeline stages fsdp", ("llama",), _LORA),
    Claim("pipeline stages replicate", ("llama",)),
    Claim("pipeline stages tensor", ("llama",)),
    Claim("pipeline stages context", ("llama",)),
    Claim("fsdp", _BOTH, _ROUNDED, packing=_EITHER),
    Claim("replicate fsdp", _BOTH, _ROUNDED, packing=_EITHER),
    Claim("context fsdp", ("llama",), ("osf",)),
    Claim("fsdp", _BOTH, ("none", "lora", "osf"), methods=("dpo", "kto")),
    Claim("replicate fsdp", _BOTH, ("none", "lora"), methods=("dpo", "kto")),
    Claim("fsdp", _MAIN, _LORA, compiled=True),
    Claim("fsdp", _MAIN, packing=(True,), compiled=True),
    Claim("fsdp", _MAIN, ("lora",), packing=(True,), compiled=True),
    Claim("fsdp", ("llama",), ("qlora", "osf"), compiled=True),
    Claim("fsdp", ("qwen3",), ("qlora",), compiled=True),
    Claim("replicate fsdp", _MAIN, _LORA, compiled=True),
    Claim("context", _BOTH, compiled=True),
    Claim("pipeline", _MAIN, compiled=True),
    Claim("pipeline", ("llama",), ("lora",), packing=_EITHER, compiled=True),
    Claim("pipeline stages", ("llama",), compiled=True),
    Claim("fsdp", _MAIN, packing=_EITHER, compiled=True, float8=True),
    Claim("replicate fsdp", ("llama",), compiled=True, float8=True),
    Claim("pipeline", ("llama",), compiled=True, float8=True),
    Claim("pipeline stages", ("llama",), compiled=True, float8=True),
)
CELLS = frozenset(cell for claim in CLAIMS for cell in claim.cells())


def is_exact(cell: Cell | None) -> bool:
    """Whether a test compares this cell with plain training. A case with shards also stands for the same without."""
    return cell is not None and (cell in CELLS or replace(cell, axes=cell.axes | {"fsdp"}) in CELLS)


def cell_of(spec: FineTuneJobSpec, model_type: str, *, compiled: bool) -> Cell | None:
    """The cell of a job whose `compute.parallelism` is set or chosen; None for a training of the user's own."""
    training = spec.training
    if training.entrypoint is not None:
        return None
    return Cell(
        model_type=model_type,
        axes=axes_of(spec.compute),
        adapter=_adapter(training),
        packing=training.packing,
        method="sft" if training.method == "pretrain" else training.method,
        compiled=compiled,
        float8=training.float8,
    )


def axes_of(compute: Compute) -> frozenset[Axis]:
    """The axes along which there is more than one worker; several stages per worker count as one more."""
    return frozenset(axis for axis, size in sizes_of(compute).items() if size > 1)


def sizes_of(compute: Compute) -> dict[Axis, int]:
    """Number of workers along each axis, and of stages per worker, from the outermost axis."""
    way: Parallelism = compute.axes
    world = compute.nodes * (compute.gpus_per_node or compute.workers_per_node)
    sharing = way.pipeline * way.data_replicate * way.context * way.tensor
    return {
        "pipeline": way.pipeline,
        "stages": way.stages_per_worker,
        "replicate": way.data_replicate,
        "fsdp": world // sharing,
        "context": way.context,
        "tensor": way.tensor,
    }


def grid(axes: Iterable[Axis]) -> str:
    """Axes in words."""
    return " x ".join(axis for axis in AXES if axis in frozenset(axes)) or "one worker"


def _adapter(training: TrainingSpec) -> str:
    adapter = training.adapter
    all_linear = adapter.type == "none" or adapter.target_modules == ["all-linear"]
    return adapter.type if all_linear else f"{adapter.type} on {', '.join(adapter.target_modules)}"

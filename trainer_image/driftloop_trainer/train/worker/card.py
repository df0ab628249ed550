"""The model card. Pure."""

from typing import Any

from driftloop.contract.modelfolder import ADAPTER_BASE
from driftloop.contract.task import TrainTask
from driftloop_trainer.train.worker.curve import PICTURE, TABLE

_CURVES = f"![What each step measured]({PICTURE})\n\n[{TABLE}]({TABLE}) has the same values as a table.\n\n"
_TOKENIZER = 'tokenizer = AutoTokenizer.from_pretrained("<this folder>")\n'
_LOADED = (
    "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    f'model = AutoModelForCausalLM.from_pretrained("<this folder>")\n{_TOKENIZER}'
)
_LOADED_ADAPTER = (
    "from peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
    'base = AutoModelForCausalLM.from_pretrained("<folder of the base>")\n'
    f'model = PeftModel.from_pretrained(base, "<this folder>")\n{_TOKENIZER}'
)


def model_card(task: TrainTask, facts: dict[str, Any], *, curves: bool = False) -> str:
    """README.md of a version: what it is, how it was trained, and how to load it.

    `curves`: whether the version has a picture and a table of its steps.
    """
    training, lineage = task.training, task.lineage
    counts = {"pretrain": "all", "sft": training.loss_on, "dpo": f"pairs of answers, beta {training.beta:g}"}
    counts["kto"] = f"labelled answers, beta {training.beta:g}"
    merged = "merged" if task.merge_adapter else f"not merged: see {ADAPTER_BASE}"
    rounded = "merged into the weights as rounded to 4 bits" if task.merge_adapter else merged
    adapters = {"none": "none", "lora": f"lora r={training.adapter.r}, {merged}"}
    adapters["qlora"] = f"qlora r={training.adapter.r}, {rounded}"
    adapters["osf"] = f"osf, {training.adapter.effective_rank:g} of the directions kept, merged"
    rows = {
        "family": task.family,
        "job": f"{task.job} ({task.job_uid})",
        "started by": lineage.trigger.kind,
        "parent version": lineage.parent or "none",
        "base model": task.model.uri or "none",
        "base model digest": lineage.base_digest or task.model.digest or "unknown",
        "data digest": task.data_digest,
        "method": training.method,
        "adapter": adapters[training.adapter.type],
        "loss on": counts[training.method],
        "optimiser steps": task.total_steps,
        "rows per step": training.train_batch_size,
        "peak learning rate": f"{training.learning_rate:g} ({training.lr_scheduler_type})",
        "seed": training.seed,
    }
    if training.float8:
        rows["linear layers"] = "multiplied in float8 (e4m3, a scale per row)"
    if training.entrypoint is not None:
        rows["trained by"] = training.entrypoint
    table = "\n".join(f"| {name} | {value} |" for name, value in (rows | facts).items())
    tags = "\n".join(f"- {tag}" for tag in ("driftloop", training.method))
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n{tags}\n---\n\n"
        f"# {task.family}\n\n"
        "Trained by Driftloop. `manifest.json` lists every file with its hash.\n\n"
        f"| | |\n|---|---|\n{table}\n\n"
        f"{_CURVES if curves else ''}"
        f"```python\n{_LOADED if task.merge_adapter else _LOADED_ADAPTER}```\n"
    )

"""Gather the trained weights and leave a model folder that anyone can load."""

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from driftloop.contract.task import TrainTask
from driftloop.contract.textstats import PROFILE
from driftloop.podlib.storage import publish
from driftloop_trainer.dataset import read_turn_ends
from driftloop_trainer.models import load_config, load_model, load_tokenizer
from driftloop_trainer.train.worker.card import model_card
from driftloop_trainer.train.worker.generation import end_generation


def export(
    model: Any, task: TrainTask, base: Path, data: Path, scratch: Path, facts: dict[str, Any], output: str
) -> str:
    """Publish the model at `output`; every rank calls it. Returns the folder's digest (rank 0, else empty)."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights = get_model_state_dict(model, options=options)
    if dist.get_rank() != 0:
        return ""
    folder = scratch / "model"
    _merged(weights, task, base).save_pretrained(folder)
    tokenizer = load_tokenizer(base, task.model.uri or "model")
    tokenizer.save_pretrained(folder)
    end_generation(folder, read_turn_ends(data), tokenizer.eos_token_id)
    shutil.copyfile(data / PROFILE, folder / PROFILE)
    (folder / "README.md").write_text(model_card(task, facts))
    for path in folder.rglob("*"):
        path.chmod(0o644)  # safetensors writes files that only their owner may read
    return publish(folder, output).digest


def _merged(weights: dict[str, Any], task: TrainTask, base: Path) -> Any:
    """A plain model on CPU with the trained weights, adapters merged, in the base model's own precision."""
    fresh = load_model(base, task.training.adapter)
    missing = fresh.load_state_dict(weights, strict=False)
    if missing.unexpected_keys:
        raise RuntimeError(f"trained weights that the base model does not have: {missing.unexpected_keys[:5]}")
    if task.training.adapter.type != "none":
        fresh = fresh.merge_and_unload()
    return fresh.to(getattr(load_config(base), "dtype", None) or torch.float32)

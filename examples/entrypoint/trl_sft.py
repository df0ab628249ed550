"""A training of your own with TRL's SFTTrainer: `entrypoint: trl_sft:train`.

The image needs `trl` and `datasets`: see Dockerfile.
"""

import math
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer

from driftloop_trainer.user import Context


class Report(TrainerCallback):
    """Reports each step, stores what the Trainer saves, and lets it save before its pod ends."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """The Trainer has the mean loss of the last step."""
        if logs and "loss" in logs:
            rate = float(logs.get("learning_rate", math.nan))
            self._context.report(state.global_step, float(logs["loss"]), learning_rate=rate)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """All workers get the same answer, so all save in the same step."""
        control.should_save = control.should_save or self._context.must_stop()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """The Trainer has written its folder."""
        step = state.global_step
        self._context.save_folder(step, Path(args.output_dir, f"checkpoint-{step}"))


def train(context: Context) -> None:
    """Train for the steps of the plan, and leave the model in `context.output`."""
    settings = context.training
    config = SFTConfig(
        output_dir=str(context.scratch),
        max_steps=context.total_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=context.gradient_accumulation_steps,
        learning_rate=settings.learning_rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_ratio,  # below 1 it is a share of the steps
        max_length=settings.max_length,
        bf16=bool(settings.bf16),
        gradient_checkpointing=settings.gradient_checkpointing,
        save_steps=settings.save_steps,
        save_total_limit=1,
        seed=settings.seed,
        logging_steps=1,
        report_to="none",
        use_cpu=context.device.type == "cpu",
        ddp_backend="gloo" if context.device.type == "cpu" else "nccl",
        disable_tqdm=True,
    )
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(context.model, dtype=torch.float32),
        args=config,
        processing_class=AutoTokenizer.from_pretrained(context.model),
        train_dataset=Dataset.from_list(
            [{name: row[name] for name in ("input_ids", "completion_mask")} for row in context.sequences()]
        ),
        callbacks=[Report(context)],
    )
    last = context.last_folder()
    trainer.train(resume_from_checkpoint=str(last[1]) if last else None)
    trainer.save_model(str(context.output))

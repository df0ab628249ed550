"""A training of your own in plain torch: `entrypoint: plain_torch:train`.

The model is sharded with FSDP2, each worker trains on every n-th row, and a pod that is lost costs the steps since the
last checkpoint.
"""

import random
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from driftloop_trainer.user import IGNORED, Context


def train(context: Context) -> None:
    """Train with AdamW for the steps of the plan, and leave the model in `context.output`."""
    settings = context.training
    model: Any = AutoModelForCausalLM.from_pretrained(context.model, dtype=torch.float32)
    model.to(context.device)
    for layer in model.model.layers:
        fully_shard(layer, mesh=context.mesh.data)
    fully_shard(model, mesh=context.mesh.data)
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
    rows = context.sequences()
    for step in range(context.resume(model, optimizer), context.total_steps):
        batch = random.Random(settings.seed + step).sample(rows, min(settings.train_batch_size, len(rows)))
        trained = sum(sum(row["completion_mask"][1:]) for row in batch)
        loss: Any = torch.zeros((), device=context.device)
        for row in batch[context.rank :: context.world_size]:
            ids, labels = (torch.tensor([row[name]], device=context.device) for name in ("input_ids", "labels"))
            logits = model(input_ids=ids).logits[0, :-1]
            loss += cross_entropy(logits.float(), labels[0, 1:], ignore_index=IGNORED, reduction="sum")
        # FSDP computes the mean of the workers' gradients, and the gradient of the mean over all tokens is wanted.
        (loss * context.world_size / trained).backward()
        optimizer.step()
        optimizer.zero_grad()
        total = loss.detach().clone()
        dist.all_reduce(total)
        context.report(step + 1, total.item() / trained, tokens=sum(len(row["input_ids"]) for row in batch))
        if context.must_stop() or (step + 1) % settings.save_steps == 0:
            context.save(step + 1, model, optimizer)
    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if context.rank == 0:
        model.save_pretrained(context.output, state_dict=whole)

"""Small training runs in float64 on several ranks, for test_exactness.py: `sharded_run.py FOLDER`.

Reads FOLDER/cases.json (see CASES in test_exactness.py), and writes the losses that rank 0 saw to FOLDER/<name>.json,
and how the run ended to FOLDER/<name>-end.json. A case with `recorded` also leaves its gradients and weights in
FOLDER/<name>.pt. In FOLDER lie train.parquet and, as pvc://FOLDER, the checkpoints.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo
import torch.distributed as dist
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter, Parallelism, TrainingSpec, Validation
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.models import config_for, decoder_layers, with_adapter
from driftloop_trainer.nf4 import quantise
from driftloop_trainer.osf import kept_weights
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Run, plain
from driftloop_trainer.train.shutdown import at_work
from driftloop_trainer.train.worker import loss, step
from driftloop_trainer.train.worker.checkpoint import resume
from driftloop_trainer.train.worker.float8 import use_float8
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.validate import Validator, use_best
from unit.trainer.float64 import compute_in_float64
from unit.trainer.ranks import EXCHANGE_TIMEOUT, run_ranks

BATCH, STEPS, PAD = 7, 5, 0  # seven rows over two ranks: an uneven share
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
Tensors = dict[str, torch.Tensor]


def training(save_steps: int = 100, **others: Any) -> TrainingSpec:
    """Settings under which every rule of a step shows: clipping bites, decay and the schedule are on."""
    return TrainingSpec(
        train_batch_size=BATCH,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        warmup_ratio=0.4,
        weight_decay=0.1,
        max_grad_norm=0.5,
        save_steps=save_steps,
        seed=3,
        **others,
    )


def tiny_model(
    adapter: Adapter | None = None,
    model_type: str = "llama",
    broken_token: int | None = None,
    float8: bool = False,
    **fields: Any,
) -> Any:
    """A random model that computes in float64: float32 would hide errors in AdamW's noise.

    Rows with `broken_token` have no finite loss.
    """
    torch.manual_seed(0)
    config = config_for(SIZES | {"model_type": model_type} | fields)
    # Experts one after the other: the kernel that computes them at once does not know float64.
    model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
        config, dtype=torch.float64, experts_implementation="eager"
    )
    compute_in_float64(model)
    if broken_token is not None:
        with torch.no_grad():
            model.get_input_embeddings().weight[broken_token] = torch.inf
    model = with_adapter(model, adapter or Adapter())
    if adapter is not None and adapter.type == "qlora":
        quantise(decoder_layers(model))
    if float8:
        use_float8(decoder_layers(model), emulate=True)
    return model.to(torch.float64)


def adapter_of(case: dict[str, Any]) -> Adapter:
    """The adapter that a case trains."""
    if case.get("osf"):
        return Adapter(type="osf", effective_rank=0.4)
    targets = case.get("targets", ["all-linear"])
    lora = Adapter(type="lora", r=4, lora_dropout=case.get("dropout", 0.0), target_modules=targets)
    if case.get("qlora"):
        return lora.model_copy(update={"type": "qlora"})
    return lora if case.get("lora") else Adapter()


def run_case(folder: Path, case: dict[str, Any]) -> tuple[list[float], dict[str, Any]]:
    """Losses of the steps that a case runs, and how it ended. It resumes if there is a checkpoint of its `run`."""
    axes = {"context": "context", "data_replicate": "replicate", "pipeline": "pipeline", "tensor": "tensor"}
    axes |= {"stages_per_worker": "stages_per_worker"}
    mesh = Mesh.of("cpu", Parallelism.model_validate({field: case.get(axis, 1) for field, axis in axes.items()}))
    torch._dynamo.reset()
    counters.clear()
    model = shard(
        tiny_model(adapter_of(case), **case.get("model", {})),
        mesh,
        bf16=False,
        gradient_checkpointing=case.get("checkpointing", False),
        unit_bytes=case.get("unit_bytes", 1),
        backend=case.get("compiled"),
    )
    optimizer = build_optimizer(model, training())
    run = Run(f"pvc://{case.get('run', case['name'])}", "0000-test")
    if dist.get_rank() == 0:
        run.take_over()
        if name := case.get("cut_short"):
            cut_short(run, name)
    dist.barrier()
    if case.get("spoilt"):
        for tensor in kept_weights(model).values():
            tensor.mul_(2)
    begun = resume(run, model, optimizer)
    losses: list[float] = []
    checkpoints: list[int] = []
    validations: list[dict[str, Any]] = []
    loop = Loop(
        training(case["save_steps"], save_total_limit=case.get("keep", 2), compile="compiled" in case),
        NextToken(Dataset(folder / case.get("data", "") / FILE), PAD),
        case["micro_size"],
        case.get("steps", STEPS),
        torch.device("cpu"),
        mesh,
        case.get("reduction", "step"),
        validator=validator_of(folder, case, mesh),
    )

    pod = folder / f"pod-{case['name']}-{dist.get_rank()}"
    pod.mkdir()

    def report(progress: Progress) -> None:
        if progress.step > begun.step + len(losses):  # else it has only been validated
            losses.append(progress.loss)
            checkpoints.append(progress.checkpoint_step)
        validations.append({"step": progress.step, "best_step": progress.best_step} | progress.validation)
        if (progress.step, dist.get_rank()) == (case.get("sigterm_after"), 1):
            (pod / "stop").touch()
        if progress.step == case.get("stop_after"):
            raise InterruptedError

    gradients: list[Tensors] = []
    record = partial(recording, model, gradients) if case.get("recorded") else nullcontext
    try:
        with patch.object(loss, "chunk_tokens", return_value=case.get("chunk", 1000)), at_work(pod) as worker, record():
            trained = loop.run(model, optimizer, run, begun, report, worker)
    except InterruptedError:
        dist.barrier()
        return losses, {"checkpoints": checkpoints, "validations": validations}
    except StageFailure as failure:
        return losses, {"failure": str(failure)}
    kept = [checkpoint.step for checkpoint in run.complete_checkpoints()]
    end = {"skipped": trained.end.skipped, "loss": trained.loss, "checkpoints": checkpoints, "kept": kept}
    end |= {"steps": trained.end.step, "validations": validations}
    if "compiled" in case:
        end["compiled"] = {"graphs": counters["stats"]["unique_graphs"], "frames": dict(counters["frames"])}
    if loop.keeps_best:
        end["exported"] = use_best(run, model, trained.end.step, trained.end.validated)
    if case.get("recorded"):
        weights = of_all_stages({name: whole(weight) for name, weight in model.named_parameters()})
        gradients = [of_all_stages(step) for step in gradients]
        if dist.get_rank() == 0:
            torch.save({"gradients": gradients, "weights": weights}, folder / f"{case['name']}.pt")
    return losses, end


def validator_of(folder: Path, case: dict[str, Any], mesh: Mesh) -> Validator | None:
    """Validates on the rows in FOLDER/set-aside, if the case does."""
    if "validation" not in case:
        return None
    method = NextToken(Dataset(folder / "set-aside" / case.get("data", "") / FILE), PAD)
    return Validator(
        Validation.model_validate(case["validation"]), method, case["micro_size"], torch.device("cpu"), mesh
    )


@contextmanager
def recording(model: nn.Module, gradients: list[Tensors]) -> Iterator[None]:
    """Add the gradients of each step to `gradients`, before they are clipped."""
    measure: Callable[..., Any] = step.reduce_sums_and_norm

    def recorded(*arguments: Any) -> Any:
        gradients.append({name: whole(p.grad) for name, p in model.named_parameters() if p.grad is not None})
        return measure(*arguments)

    with patch.object(step, "reduce_sums_and_norm", recorded):
        yield


def of_all_stages(own: Tensors) -> Tensors:
    """The tensors that any rank has, by name; every rank calls it. In a pipeline each has those of its stages."""
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return {name: tensor for tensors in gathered for name, tensor in tensors.items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor of all ranks; every rank calls it."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()


def cut_short(run: Run, name: str) -> None:
    """Cut the file `name` of the last checkpoint in half."""
    path = Path(plain(run.complete_checkpoints()[0].uri), name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def main(folder: Path) -> None:
    """Run the cases of each world size, the largest first."""
    sizes = {case["world_size"] for case in json.loads((folder / "cases.json").read_text())}
    for world_size in sorted(sizes, reverse=True):
        run_ranks(run_rank, folder, world_size)


def run_rank(folder: Path, rank: int, world_size: int) -> None:
    """Run the cases of this world size as one of its ranks."""
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store-{world_size}",
        rank=rank,
        world_size=world_size,
        timeout=EXCHANGE_TIMEOUT,
    )
    for case in json.loads((folder / "cases.json").read_text()):
        if case["world_size"] == world_size:
            losses, end = run_case(folder, case)
            if rank == 0:
                (folder / f"{case['name']}.json").write_text(json.dumps(losses))
                (folder / f"{case['name']}-end.json").write_text(json.dumps(end))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))

"""Whether the micro-batch that the plan chooses for a GPU fits into its memory. Needs a GPU.

    PYTHONPATH=operator:trainer_image python bench/gpu_plan.py [--only NAME]

For each case, a new process runs two of the product's training steps with a random model and all tokens in the loss,
with the micro-batch that the plan chooses for this GPU. Prints the plan's estimate, the peak of the memory in use as
the driver reports it, and tokens per second in the second step. Then the same with twice the rows: if they don't fit,
the plan was close to the limit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from driftloop.api.finetunejob import FineTuneJobSpec
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.kinds.finetunejob.plan import Refusal, plan, resolved

MIB = 1 << 20
LLAMA_1B = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "tie_word_embeddings": False,
}
LORA = {"adapter": {"type": "lora"}}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "1b": (LLAMA_1B, {"maxLength": 2048}),
    "1b-checkpointing": (LLAMA_1B, {"maxLength": 2048, "gradientCheckpointing": True}),
    "1b-packing": (LLAMA_1B, {"maxLength": 4096, "gradientCheckpointing": True, "packing": True}),
    "1b-float32": (LLAMA_1B, {"maxLength": 1024, "bf16": False}),
    "8b-lora": (LLAMA_8B, {"maxLength": 4096, "gradientCheckpointing": True} | LORA),
    "8b": (LLAMA_8B, {"maxLength": 4096, "gradientCheckpointing": True}),
}
DIGEST = "sha256:" + "0" * 64


def main() -> None:
    """Print one line per case and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append", help="only this case; may be repeated")
    parser.add_argument("--rows", type=int, default=0, help=argparse.SUPPRESS)  # for the process of one case
    options = parser.parse_args()
    if options.rows:
        train(options.only[0], options.rows)
        return
    memory = total_memory()
    print(f"GPU with {memory // MIB} MiB", flush=True)
    for name in options.only or CASES:
        report(name, memory)


def report(name: str, memory: int) -> None:
    """Plan a case, run it, and run it with twice the rows."""
    planned = plan(spec(name, memory), prepared(name))
    if isinstance(planned, Refusal):
        print(f"{name}: refused: {planned.message}", flush=True)
        return
    micro, estimate = planned.per_device_train_batch_size, planned.status.memory_bytes_per_worker
    parts = ", ".join(f"{part} {size // MIB}" for part, size in estimate.items() if part != "total")
    print(f"{name}: planned {micro} rows at once, {estimate['total'] // MIB} MiB ({parts})", flush=True)
    for rows in (micro, 2 * micro):
        print(f"{name}: {rows} rows: {run(name, rows)}", flush=True)


def run(name: str, rows: int) -> str:
    """Train with `rows` rows at once in a new process. Returns the memory peak and the speed, or the error."""
    command = [sys.executable, __file__, f"--only={name}", f"--rows={rows}"]
    before, peak, over = used_memory(), 0, threading.Event()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - ours

    def look() -> None:
        nonlocal peak
        while not over.wait(0.1):
            peak = max(peak, used_memory() - before)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    out, error = process.communicate(timeout=240)
    over.set()
    thread.join()
    if process.returncode:
        last = [line for line in error.strip().splitlines() if line][-1:]
        return "out of memory" if "OutOfMemory" in error else f"failed: {last}"
    return f"{peak // MIB} MiB in use at the peak, {json.loads(out)['pace']:.0f} tokens/s"


def spec(name: str, memory: int) -> FineTuneJobSpec:
    """The job of a case, with a batch too large for any GPU."""
    _, training = CASES[name]
    document = {
        "model": {"from": {"uri": "pvc://bench/model"}},
        "data": {"sources": [{"name": "rows", "uri": "pvc://bench/rows.csv"}]},
        "training": {"trainBatchSize": 4096, "perDeviceTrainBatchSize": 4096} | training,
        "compute": {"gpusPerNode": 1, "gpuMemory": str(memory)},
        "storage": "pvc://bench/store",
        "output": {"family": "bench"},
    }
    return FineTuneJobSpec.model_validate(document)


def prepared(name: str) -> PrepareResult:
    """A result of prepare in which all rows have the maximal length."""
    from transformers import AutoConfig

    from driftloop_trainer.models import model_facts

    architecture, _ = CASES[name]
    training = spec(name, 1).training
    facts: ModelFacts = model_facts(AutoConfig.for_model(**architecture), training.adapter)
    return PrepareResult(
        uri="pvc://bench/prepared",
        digest=DIGEST,
        train_rows=8192,
        sequences=8192,
        held_out_rows=0,
        tokens=8192 * training.max_length,
        trained_tokens=8192 * training.max_length,
        longest_row_tokens=training.max_length,
        tokenizer_digest=DIGEST,
        model=facts,
    )


def train(name: str, rows: int) -> None:
    """Run two steps of one micro-batch each, and print the speed of the second."""
    import numpy as np
    import torch
    import torch.distributed as dist
    from transformers import AutoConfig, AutoModelForCausalLM

    from driftloop_trainer.dataset import FILE, Dataset, write_dataset
    from driftloop_trainer.models import with_adapter
    from driftloop_trainer.train.worker.attention import attend_by_document
    from driftloop_trainer.train.worker.batches import collate
    from driftloop_trainer.train.worker.loop import build_optimizer
    from driftloop_trainer.train.worker.mesh import Mesh
    from driftloop_trainer.train.worker.sharding import shard
    from driftloop_trainer.train.worker.step import train_step

    architecture, _ = CASES[name]
    training = resolved(spec(name, 1))
    length = training.max_length
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("nccl", init_method=f"file://{folder}/store", rank=0, world_size=1)
        random = np.random.default_rng(0)
        ids = random.integers(1, architecture["vocab_size"], size=(rows, length)).tolist()
        segments = [length // 4] * 4 if training.packing else [length]
        write_dataset(Path(folder), ids, ids, [segments] * rows)
        dataset = Dataset(Path(folder) / FILE)
        with torch.device("cuda"):
            config = AutoConfig.for_model(**architecture)
            half = training.bf16 and training.adapter.type != "none"
            dtype = torch.bfloat16 if half else torch.float32  # like worker/loading.py
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]
            model = with_adapter(model, training.adapter)
        checkpointing, bf16 = training.gradient_checkpointing, bool(training.bf16)
        if not hasattr(model, "activation_checkpointing_enable"):  # the name before transformers 5.20
            model.activation_checkpointing_enable = model.gradient_checkpointing_enable
        mesh = Mesh.of("cuda")
        model = shard(model, mesh, bf16=bf16, gradient_checkpointing=checkpointing)
        optimizer = build_optimizer(model, training)
        if dataset.packed:
            attend_by_document(model)
        model.train()
        pace = 0.0
        for _ in range(2):
            batch = collate(dataset, range(rows), 0).to(torch.device("cuda"))
            torch.cuda.synchronize()
            began = time.monotonic()
            train_step(model, optimizer, mesh, [batch], int(dataset.trained.sum()), 1.0)
            torch.cuda.synchronize()
            pace = rows * length / (time.monotonic() - began)
        print(json.dumps({"pace": pace}), flush=True)
        os._exit(0)  # at once, as stopping NCCL takes seconds


def total_memory() -> int:
    """Memory of the first GPU in bytes."""
    return _query("memory.total")


def used_memory() -> int:
    """Memory in use on the first GPU, in bytes."""
    return _query("memory.used")


def _query(what: str) -> int:
    command = ["nvidia-smi", "--id=0", f"--query-gpu={what}", "--format=csv,noheader,nounits"]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * MIB  # noqa: S603 - ours


if __name__ == "__main__":
    main()

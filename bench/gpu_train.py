"""Our training steps compared with loops by hand, on one GPU. Takes at most ten minutes on an H100.

    PYTHONPATH=operator:trainer_image python bench/gpu_train.py [--only CASE] [--rounds N]

Cases, each with random weights and tokens:
    1b      all weights of a Llama of 1.24B, 16 rows of 2,048 tokens in 4 micro-batches
    packed  the same model, 16 documents in one row of 32,768 tokens, with gradient checkpointing
    lora    LoRA with rank 16 on a Llama of 8B, one row of 4,096 tokens

By hand: autocast, the layers compiled, the cross-entropy in compiled chunks, AdamW fused; packed rows by FlexAttention
with a mask of documents. Both are in one process and take turns, so both see the same clock of the GPU. Prints tokens
per second (medians), the ratio (1.0: as fast as by hand) with the lower end of the 95 % interval of its median, MFU (6
FLOPs per trained weight and token, 4 per frozen one, and the attention, of the GPU's peak in bfloat16), and the most
memory that torch has allocated beside what the plan expects.

With --tiny the cases are small and run on a CPU: to see that the script works.
"""

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from torch.nn.attention.flex_attention import create_block_mask, flex_attention
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter, TrainingSpec
from driftloop.contract.result import PrepareResult
from driftloop.controller.kinds.finetunejob.memory import memory_per_worker
from driftloop_trainer.models import config_for, decoder_layers, model_facts, with_adapter
from driftloop_trainer.train.worker.attention import attend_by_document
from driftloop_trainer.train.worker.batches import Batch, Documents
from driftloop_trainer.train.worker.loop import build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.sharding import shard
from driftloop_trainer.train.worker.step import train_step
from driftloop_trainer.train.worker.utilisation import Flops, peak_of

LLAMA_1B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": True,
}
LLAMA_8B = LLAMA_1B | {
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "tie_word_embeddings": False,
}
TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 512}
NO_ADAPTER = Adapter()
CHUNKS, WARM_UP, DIGEST, BY_HAND = 16, 3, "sha256:" + "0" * 64, "by_hand"


@dataclass(frozen=True)
class Case:
    """A training. `rows`: of `length` tokens in each of `batches` micro-batches. `documents`: in each row."""

    architecture: dict[str, Any]
    rows: int
    length: int
    batches: int = 1
    documents: int = 1
    checkpointing: bool = False
    adapter: Adapter = NO_ADAPTER

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.rows * self.length * self.batches

    @property
    def training(self) -> TrainingSpec:
        """The job's settings."""
        return TrainingSpec(
            adapter=self.adapter,
            bf16=True,
            compile=True,
            gradient_checkpointing=self.checkpointing,
            max_length=self.length,
            packing=self.documents > 1,
            train_batch_size=self.rows * self.batches,
        )

    def tiny(self) -> "Case":
        """The same on a CPU."""
        tied = {"tie_word_embeddings": self.architecture["tie_word_embeddings"]}
        small = LLAMA_1B | TINY | {"num_key_value_heads": 2} | tied
        return replace(self, architecture=small, rows=min(2, self.rows), length=64, documents=min(4, self.documents))


LORA = Adapter(type="lora", r=16, lora_dropout=0.0, target_modules=["all-linear"])
CASES = {
    "1b": Case(LLAMA_1B, rows=4, length=2048, batches=4),
    "packed": Case(LLAMA_1B, rows=1, length=32_768, documents=16, checkpointing=True),
    "lora": Case(LLAMA_8B, rows=1, length=4096, adapter=LORA),
}


@dataclass(frozen=True)
class Loop:
    """A loop: its step, and the bytes of its weights."""

    step: Callable[[], object]
    weights: int

    @classmethod
    def of(cls, model: torch.nn.Module, step: Callable[[], object]) -> "Loop":
        """The loop that trains `model`."""
        return cls(step, sum(parameter.nbytes for parameter in model.parameters()))


def main() -> None:
    """Run the cases, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=CASES, action="append", help="only this case; may be repeated")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each loop that are measured")
    parser.add_argument("--tiny", action="store_true", help="small cases on a CPU")
    options = parser.parse_args()
    if not options.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here: --tiny runs on a CPU")
    device = torch.device("cpu" if options.tiny else "cuda")
    with tempfile.TemporaryDirectory() as folder:
        backend = "gloo" if options.tiny else "nccl"
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        for name in options.only or CASES:
            measure(name, CASES[name].tiny() if options.tiny else CASES[name], device, options.rounds)
        dist.destroy_process_group()


def measure(name: str, case: Case, device: torch.device, rounds: int) -> None:
    """Let both loops take turns, and print what they needed."""
    batches = micro_batches(case, device)
    loops = {"ours": ours(case, batches, device), "by hand": by_hand(case, batches, device)}
    peaks = {name: warm_up(loop, device) for name, loop in loops.items()}
    seconds: dict[str, list[float]] = {loop: [] for loop in loops}
    for number in range(rounds):
        for loop in list(loops) if number % 2 else reversed(list(loops)):
            seconds[loop].append(timed(loops[loop].step, device))
    for loop, taken in seconds.items():
        pace = case.tokens / statistics.median(taken)
        peak = peaks[loop]
        used = "" if peak is None else f", at most {gib(peak)} allocated"
        print(f"{name}: {loop}: {pace:,.0f} tokens/s{mfu(case, pace, device)}{used}", flush=True)
    ratios = [hand / own for own, hand in zip(seconds["ours"], seconds["by hand"], strict=True)]
    print(f"{name}: ratio {statistics.median(ratios):.3f}, at least {lower_bound(ratios):.3f}", flush=True)
    print(f"{name}: the plan expects {gib(planned(case))} allocated", flush=True)
    torch.compiler.reset()


def ours(case: Case, batches: list[Batch], device: torch.device) -> Loop:
    """The product's training step."""
    training, mesh = case.training, Mesh.of(device.type)
    model = new_model(case, device, half=case.adapter.type != "none")
    shard(model, mesh, bf16=True, gradient_checkpointing=case.checkpointing, backend=compiler(device))
    optimizer = build_optimizer(model, training)
    if case.documents > 1:
        attend_by_document(model)
    model.train()
    count = sum(batch.targets.numel() for batch in batches)
    return Loop.of(model, lambda: train_step(model, optimizer, mesh, batches, count, training.max_grad_norm))


def by_hand(case: Case, batches: list[Batch], device: torch.device) -> Loop:
    """The shortest loop that does the same."""
    model = new_model(case, device, half=case.adapter.type != "none")
    for layer in decoder_layers(model):
        layer.forward = torch.compile(layer.forward, backend=compiler(device))
    if case.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    if case.documents > 1:
        AttentionInterface.register(BY_HAND, partial(flex, document_mask(case, device)))
        model.config._attn_implementation = BY_HAND
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, weight_decay=0.0, fused=True)
    model.train()
    bare, head = getattr(model, "base_model", model), model.get_output_embeddings()
    body = bare.model.model if case.adapter.type != "none" else model.model
    loss_of = torch.compile(partial(chunk_loss, head), backend=compiler(device))
    count = sum(batch.targets.numel() for batch in batches)

    def step() -> None:
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16):
                hidden = body(batch.ids, position_ids=batch.position_ids, use_cache=False).last_hidden_state
                states, targets = hidden[:, batch.kept].flatten(0, 1), batch.targets.flatten()
                size = math.ceil(targets.numel() / CHUNKS)
                chunks = zip(torch.split(states, size), torch.split(targets, size), strict=True)
                losses = [checkpoint(loss_of, *chunk, use_reentrant=False) for chunk in chunks]
            (torch.stack(losses).sum() / count).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return Loop.of(model, step)


def chunk_loss(head: Any, states: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The summed cross-entropy of some tokens."""
    return functional.cross_entropy(head(states).float(), targets, reduction="sum")


def flex(
    mask: Any, _module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **options: Any
) -> tuple[torch.Tensor, None]:
    """Attention within each document, as transformers calls it. FlexAttention has no backward pass on CPUs."""
    if isinstance(mask, torch.Tensor):
        attended = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
    else:
        attended = flex_attention(query, key, value, block_mask=mask, scale=options.get("scaling"), enable_gqa=True)
    return attended.transpose(1, 2), None


def document_mask(case: Case, device: torch.device) -> Any:
    """Which tokens see which others."""
    number = torch.arange(case.length, device=device) // (case.length // case.documents)

    def seen(_row: Any, _head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return (query >= key) & (number[query] == number[key])

    if device.type == "cpu":
        places = torch.arange(case.length)
        return seen(0, 0, places[:, None], places[None])
    return create_block_mask(seen, None, None, case.length, case.length, device=device.type)


def micro_batches(case: Case, device: torch.device) -> list[Batch]:
    """Random tokens. All but the first of each row count."""
    torch.manual_seed(0)
    each = case.length // case.documents
    kept = torch.arange(case.length - 1)
    positions = torch.arange(each).repeat(case.documents).expand(case.rows, -1) if case.documents > 1 else None
    documents = Documents.of([each] * case.documents * case.rows) if case.documents > 1 else None
    found = []
    for _ in range(case.batches):
        ids = torch.randint(1, case.architecture["vocab_size"], (case.rows, case.length))
        found.append(Batch(ids, ids[:, 1:].contiguous(), kept, positions, documents).to(device))
    return found


def new_model(case: Case, device: torch.device, *, half: bool) -> Any:
    """Random weights: in float32, or the frozen ones of an adapter in bfloat16."""
    with device:
        config = config_for(case.architecture)
        bare = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16 if half else torch.float32)  # type: ignore[no-untyped-call]
        model = with_adapter(bare, case.adapter)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def compiler(device: torch.device) -> str:
    """What compiles: without a GPU a backend that needs no C++ compiler."""
    return "inductor" if device.type == "cuda" else "aot_eager"


def warm_up(loop: Loop, device: torch.device) -> int | None:
    """Compile. Returns the most bytes that this loop has allocated in its last step, without those of the other."""
    if device.type == "cpu":
        for _ in range(WARM_UP):
            loop.step()
        return None
    others = torch.cuda.memory_allocated() - loop.weights
    for _ in range(WARM_UP):
        torch.cuda.reset_peak_memory_stats()
        loop.step()
    return torch.cuda.max_memory_allocated() - others


def timed(step: Callable[[], object], device: torch.device) -> float:
    """Seconds of a step."""
    with synchronised(device):
        began = time.perf_counter()
        step()
    return time.perf_counter() - began


@contextmanager
def synchronised(device: torch.device) -> Iterator[None]:
    """Nothing else runs on the GPU before and after the block."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize()


def mfu(case: Case, pace: float, device: torch.device) -> str:
    """The share of the GPU's peak that the model's own arithmetic takes; empty if the peak is not known."""
    if device.type == "cpu":
        return ""
    product = torch.cuda.get_device_name(device)
    if (peak := peak_of(product)) is None:
        return f", peak of {product} not known"
    flops = Flops.of(model_facts(config_for(case.architecture), case.adapter))
    return f", MFU {flops.step(1, 1, case.length / case.documents) * pace / peak:.3f}"


def planned(case: Case) -> int:
    """Bytes that the plan expects torch to allocate."""
    data = PrepareResult(
        uri="pvc://bench/prepared",
        digest=DIGEST,
        train_rows=case.rows * case.batches,
        held_out_rows=0,
        tokens=case.tokens,
        trained_tokens=case.tokens,
        longest_row_tokens=case.length,
        tokenizer_digest=DIGEST,
        model=model_facts(config_for(case.architecture), case.adapter),
    )
    memory = memory_per_worker(case.training, data, 1, case.rows, on_gpu=True)
    return memory["total"] - memory["runtime"]


def lower_bound(values: list[float]) -> float:
    """The lower end of the 95 % interval of the median, by the sign test; of fewer than six values the least.

    >>> lower_bound([5, 1, 2, 4, 3, 7, 6])
    1
    """
    count, below, rank = len(values), 0.0, 0
    while (below := below + math.comb(count, rank) / 2**count) <= 0.025:
        rank += 1
    return sorted(values)[max(0, rank - 1)]


def gib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.2f} GiB"


if __name__ == "__main__":
    main()

"""Whether the step `augment` helps: the same small model is trained with and without it, on the user's data.

    PYTHONPATH=operator:trainer_image python bench/augment.py --data FOLDER

FOLDER has train.csv and test.csv with the columns text and category. For each seed, a few rows of some categories are
sampled, prepared by the product's own stage, and used by its own training loop from random weights, for the same number
of steps with and without augmented rows. Then the model answers test rows of these categories greedily; an answer is
right if it equals the category exactly. Prints the accuracies and the median of their differences.
"""

import argparse
import os
import tempfile
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from intents import Rows, read_rows, write_rows

from driftloop.api.finetunejob import Adapter
from driftloop.contract.task import PrepareTask
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.models import load_model, load_tokenizer
from driftloop_trainer.prepare.stage import prepare
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from driftloop_trainer.train.worker.sharding import shard

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4}
ARCHITECTURE = {"model_type": "llama", "max_position_embeddings": 256, "tie_word_embeddings": True} | SIZES
ANSWER = 24  # maximal tokens of an answer


def main() -> None:
    """Print one line per seed, and the median."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    differences = []
    with tempfile.TemporaryDirectory(prefix="augment-") as name:
        os.environ["DRIFTLOOP_VOLUMES"] = name
        (Path(name) / "bench").mkdir()
        dist.init_process_group("gloo", init_method=f"file://{name}/store", rank=0, world_size=1)
        for seed in options.seeds:
            train, test = drawn(options, seed)
            write_rows(Path(name) / "bench" / f"{seed}.csv", train)
            plain, more = (accuracy(options, Path(name) / "bench", seed, test, f) for f in (0.0, options.fraction))
            differences.append(more - plain)
            print(f"seed {seed}: {plain:.3f} without, {more:.3f} with augment, {more - plain:+.3f}", flush=True)
        dist.destroy_process_group()
    print(f"median difference: {median(differences):+.3f} ({len(train)} rows, {len(test)} test rows per seed)")


def drawn(options: argparse.Namespace, seed: int) -> tuple[Rows, Rows]:
    """Training rows and test rows of the categories for this seed."""
    random = Random(seed)  # noqa: S311 - no secret
    train, test = (read_rows(options.data / f"{part}.csv") for part in ("train", "test"))
    categories = random.sample(sorted({category for _, category in train}), options.categories)
    chosen = [
        row
        for category in categories
        for row in random.sample([row for row in train if row[1] == category], options.rows)
    ]
    candidates = [row for row in test if row[1] in categories]
    return chosen, random.sample(candidates, min(options.items, len(candidates)))


def accuracy(options: argparse.Namespace, folder: Path, seed: int, test: Rows, fraction: float) -> float:
    """Train, and return the share of test rows that the model answers right."""
    output = f"pvc://bench/{seed}-{fraction}"
    prepare(_task(options, seed, fraction, output))
    prepared = folder / f"{seed}-{fraction}"
    tokenizer = load_tokenizer(prepared / "model", output)
    task = _task(options, seed, fraction, output)
    mesh = Mesh.of("cpu")
    model = shard(load_model(prepared / "model", Adapter()), mesh, bf16=False,
                  gradient_checkpointing=False)  # fmt: skip
    method = NextToken(Dataset(prepared / FILE), tokenizer.pad_token_id)
    loop = Loop(task.training, method, options.batch, options.steps, torch.device("cpu"), mesh)
    loop.run(model, build_optimizer(model, task.training), Run(f"{output}-run", "bench"), Position(), lambda _: None)
    model.eval()
    right = 0
    for start in range(0, len(test), 100):
        part = test[start : start + 100]
        right += sum(answer == row[1] for answer, row in zip(answers(model, tokenizer, part), part, strict=True))
    return right / len(test)


@torch.no_grad()
def answers(model: Any, tokenizer: Any, rows: Rows) -> list[str]:
    """The model's greedy answers to the texts of `rows`."""
    prompts = [
        tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True)
        for text, _ in rows
    ]
    tokenizer.padding_side = "left"
    batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    width = ids.shape[1]
    for _ in range(ANSWER):
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    end = tokenizer.eos_token_id
    return [tokenizer.decode(row[: row.index(end)] if end in row else row) for row in ids[:, width:].tolist()]


def _task(options: argparse.Namespace, seed: int, fraction: float, output: str) -> PrepareTask:
    augment = [{"type": "augment", "fraction": fraction, "seed": seed}] if fraction else []
    source = {"name": "rows", "uri": f"pvc://bench/{seed}.csv", "columns": {"prompt": "text", "completion": "category"}}
    training = {"method": "sft", "maxLength": 128, "trainBatchSize": options.batch, "maxSteps": options.steps}
    training |= {"learningRate": 2e-3, "lrSchedulerType": "one_cycle", "warmupRatio": 0.3, "seed": seed}
    document = {
        "job": "bench",
        "jobUid": f"{seed}-{fraction}",
        "family": "bench",
        "model": {"new": {"architecture": ARCHITECTURE, "tokenizer": {"vocabSize": 1024}}},
        "data": {
            "sources": [source],
            "steps": [{"type": "normalise"}, {"type": "dedupExact"}, {"type": "dedupNear"}, *augment],
            "heldOutPercent": 0,
        },
        "training": training | {"saveSteps": 1_000_000, "bf16": False},
        "storage": "pvc://bench",
        "output": output,
    }
    return PrepareTask.model_validate(document)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--categories", type=int, default=15)
    parser.add_argument("--rows", type=int, default=40, help="training rows per category")
    parser.add_argument("--items", type=int, default=300, help="test rows")
    parser.add_argument("--fraction", type=float, default=1.0, help="augmented rows per training row")
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--batch", type=int, default=32, help="rows per step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    return parser


if __name__ == "__main__":
    main()

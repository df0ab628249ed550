"""What a retraining on new intents costs of the old ones: the retention frontier.

    PYTHONPATH=operator:trainer_image python bench/forgetting.py --data FOLDER --plot docs/forgetting.svg

FOLDER has train.csv and test.csv with the columns text and category. For each seed, a small model learns some
categories from random weights (the old ones). Then it is retrained on others (the new ones) in each of WAYS: on the new
rows alone, with a share of the old rows (`data.replay`), or by an adapter. Rows are prepared by the product's own stage
and used by its own training loop; every way sees each new row equally often. Then the models answer test rows of old
and new categories greedily; an answer is right if it equals the category exactly. Prints the accuracies of each seed
and their means, and draws them.
"""

import argparse
import os
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from html import escape
from pathlib import Path
from random import Random
from statistics import fmean
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
import torch.distributed as dist
from intents import Rows, read_rows, write_rows

from driftloop.contract.course import Course
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


@dataclass(frozen=True)
class Way:
    """A way to retrain. `replay`: share of the old rows that are trained on again. `rate`: peak learning rate."""

    name: str
    adapter: str = "none"
    replay: float = 0.0
    rate: float = 1e-3


WAYS = (
    Way("all weights"),
    Way("all weights, replay 5 %", replay=0.05),
    Way("all weights, replay 25 %", replay=0.25),
    Way("all weights, replay 100 %", replay=1.0),
    *(Way(f"{adapter}, rate {rate:g}", adapter, rate=rate) for adapter in ("lora", "osf") for rate in (3e-3, 1e-2)),
    Way("osf, rate 0.003, replay 5 %", "osf", replay=0.05, rate=3e-3),
)


@dataclass(frozen=True)
class Result:
    """Shares of right answers to test rows of new and old categories, and the cost of the retraining."""

    new: float
    old: float
    steps: int
    seconds: float


def main() -> None:
    """Print a line per seed and way, then the means of each way, and draw them."""
    options = _parser().parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[Result]] = {"before": [], **{way.name: [] for way in WAYS}}
    with tempfile.TemporaryDirectory(prefix="forgetting-") as name:
        os.environ["DRIFTLOOP_VOLUMES"] = name
        (Path(name) / "bench").mkdir()
        dist.init_process_group("gloo", init_method=f"file://{name}/store", rank=0, world_size=1)
        for seed in options.seeds:
            bench = Bench(options, Path(name) / "bench", seed)
            for way, result in bench.results():
                results[way].append(result)
                print(f"seed {seed}, {way}: new {result.new:.3f}, old {result.old:.3f}", flush=True)
        dist.destroy_process_group()
    print(table(results))
    if options.plot:
        options.plot.write_text(drawing(results))


class Bench:
    """The models of one seed."""

    def __init__(self, options: argparse.Namespace, folder: Path, seed: int) -> None:
        self._options, self._folder, self._seed = options, folder, seed
        train, test = (read_rows(options.data / f"{part}.csv") for part in ("train", "test"))
        random = Random(seed)  # noqa: S311 - no secret
        counts = Counter(category for _, category in train)
        enough = sorted(category for category, count in counts.items() if count >= options.rows)
        drawn = random.sample(enough, options.old + options.new)
        self._tests = {}
        for part, categories in (("old", drawn[: options.old]), ("new", drawn[options.old :])):
            rows = [row for c in categories for row in random.sample([r for r in train if r[1] == c], options.rows)]
            write_rows(folder / f"{seed}-{part}.csv", rows)
            candidates = [row for row in test if row[1] in categories]
            self._tests[part] = random.sample(candidates, min(options.items, len(candidates)))

    def results(self) -> Any:
        """Yields the name of each way, and its result; first "before", the model that all ways start from."""
        base = self._folder / f"{self._seed}-base"
        way = Way("before", rate=2e-3)
        model, result = self._trained(way, None)
        model.save_pretrained(base)
        load_tokenizer(self._folder / f"{self._seed}-before" / "model", "base").save_pretrained(base)
        yield way.name, result
        for way in WAYS:
            yield way.name, self._trained(way, base)[1]

    def _trained(self, way: Way, base: Path | None) -> tuple[Any, Result]:
        output = f"pvc://bench/{self._seed}-{way.name}"
        task = self._task(way, base, output)
        prepare(task)
        prepared = self._folder / f"{self._seed}-{way.name}"
        folder = base or prepared / "model"
        tokenizer = load_tokenizer(folder, output)
        torch.manual_seed(self._seed)  # of the adapter
        mesh, device = Mesh.of("cpu"), torch.device("cpu")
        model = shard(load_model(folder, task.training.adapter), mesh, bf16=False, gradient_checkpointing=False)
        method = NextToken(Dataset(prepared / FILE), tokenizer.pad_token_id)
        steps = Course.of(task.training, len(method.dataset)).steps
        loop = Loop(task.training, method, self._options.batch, steps, device, mesh)
        begun = time.process_time()
        optimizer = build_optimizer(model, task.training)
        loop.run(model, optimizer, Run(f"{output}-run", "bench"), Position(0), lambda _: None)
        seconds = time.process_time() - begun
        plain = load_model(folder, task.training.adapter)
        plain.load_state_dict({name: tensor.full_tensor() for name, tensor in model.state_dict().items()})
        plain.eval()
        right = {part: _accuracy(plain, tokenizer, rows) for part, rows in self._tests.items()}
        return plain, Result(right["new"], right["old"], steps, seconds)

    def _task(self, way: Way, base: Path | None, output: str) -> PrepareTask:
        part, epochs = ("old", self._options.first_epochs) if base is None else ("new", self._options.epochs)
        data: dict[str, Any] = {"sources": [self._source(part)], "heldOutPercent": 0}
        if way.replay:
            data["replay"] = {"sources": [self._source("old")], "fraction": way.replay}
        training = {"method": "sft", "maxLength": 128, "trainBatchSize": self._options.batch, "numTrainEpochs": epochs}
        training |= {"learningRate": way.rate, "lrSchedulerType": "one_cycle", "warmupRatio": 0.3, "seed": self._seed}
        new = {"new": {"architecture": ARCHITECTURE, "tokenizer": {"vocabSize": 1024}}}
        document = {
            "job": "bench",
            "jobUid": f"{self._seed}-{way.name}",
            "family": "bench",
            "model": new if base is None else {"uri": f"pvc://bench/{base.name}"},
            "data": data,
            "training": training | {"adapter": {"type": way.adapter}, "saveSteps": 1_000_000, "bf16": False},
            "storage": "pvc://bench",
            "output": output,
        }
        return PrepareTask.model_validate(document)

    def _source(self, part: str) -> dict[str, Any]:
        columns = {"prompt": "text", "completion": "category"}
        return {"name": part, "uri": f"pvc://bench/{self._seed}-{part}.csv", "columns": columns}


@torch.no_grad()
def _accuracy(model: Any, tokenizer: Any, rows: Rows) -> float:
    """The share of `rows` whose category is the model's greedy answer."""
    right = 0
    tokenizer.padding_side = "left"
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        prompts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
            for text, _ in part
        ]
        batch = tokenizer(
            prompts, return_tensors="pt", padding=True, add_special_tokens=False, return_token_type_ids=False
        )
        ids = model.generate(
            **batch, max_new_tokens=ANSWER, do_sample=False, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )  # fmt: skip
        answers = tokenizer.batch_decode(ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        right += sum(answer == category for answer, (_, category) in zip(answers, part, strict=True))
    return right / len(rows)


def table(results: dict[str, list[Result]]) -> str:
    """The means over the seeds, with the smallest and the largest value, as a table in Markdown."""
    lines = ["| retraining | new intents right | old intents right | steps | CPU s |", "|---|---|---|---|---|"]
    for name, found in results.items():
        steps, seconds = fmean(r.steps for r in found), fmean(r.seconds for r in found)
        lines.append(
            f"| {name} | {_spread([r.new for r in found])} | {_spread([r.old for r in found])} "
            f"| {steps:.0f} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    low, middle, high = (100 * value for value in (min(values), fmean(values), max(values)))
    return f"{middle:.1f} % ({low:.1f} to {high:.1f})"


def drawing(results: dict[str, list[Result]]) -> str:
    """An SVG with a dot per seed and a larger one for the mean of each way; the best ways are at the top right."""
    width, height, left, top = 640, 400, 60, 20
    colours = (
        "#7f7f7f",
        "#d62728",
        "#ff9896",
        "#ffbb78",
        "#2ca02c",
        "#1f77b4",
        "#9edae5",
        "#aec7e8",
        "#9467bd",
        "#c5b0d5",
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 250} {top + height + 60}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{left + width + 250}" height="{top + height + 60}" fill="white"/>',
    ]

    def place(new: float, old: float) -> tuple[float, float]:
        return left + new * width, top + (1 - old) * height

    for tick in range(0, 101, 20):
        x, y = place(tick / 100, tick / 100)
        parts += [
            f'<path d="M{x:.0f} {top}V{top + height}M{left} {y:.0f}H{left + width}" stroke="#dddddd"/>',
            f'<text x="{x:.0f}" y="{top + height + 18}" text-anchor="middle">{tick} %</text>',
            f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{tick} %</text>',
        ]
    parts.append(f'<text x="{left + width / 2}" y="{top + height + 42}" text-anchor="middle">new intents right</text>')
    parts.append(
        f'<text transform="translate(14 {top + height / 2}) rotate(-90)" text-anchor="middle">old intents right</text>'
    )
    for number, ((name, found), colour) in enumerate(zip(results.items(), colours, strict=False)):
        dots = [(r.new, r.old, 3, 0.5) for r in found]
        dots.append((fmean(r.new for r in found), fmean(r.old for r in found), 7, 1.0))
        for new, old, radius, opacity in dots:
            x, y = place(new, old)
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}" opacity="{opacity}"/>')
        y = top + 14 + 24 * number
        parts.append(f'<circle cx="{left + width + 24}" cy="{y - 4}" r="7" fill="{colour}"/>')
        parts.append(f'<text x="{left + width + 38}" y="{y}">{escape(name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.csv and test.csv")
    parser.add_argument("--old", type=int, default=20, help="categories that the model knows")
    parser.add_argument("--new", type=int, default=8, help="categories that it learns")
    parser.add_argument("--rows", type=int, default=30, help="training rows per category")
    parser.add_argument("--items", type=int, default=200, help="test rows of old and of new categories")
    parser.add_argument("--first-epochs", type=int, default=20, help="passes over the old rows")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the new rows")
    parser.add_argument("--batch", type=int, default=32, help="rows per step")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--plot", type=Path, help="an SVG file to write")
    return parser


if __name__ == "__main__":
    main()

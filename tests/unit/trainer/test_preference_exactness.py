"""Training on pairs and labelled answers is the same on any number of ranks, with any micro-batch, after a restart."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from driftloop.api.finetunejob import Adapter, TrainingSpec
from driftloop.contract.course import Course
from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker.order import Order
from driftloop_trainer.train.worker.schedule import learning_rate_factor
from unit.trainer.preference_run import CASES, LORA, OSF, spec
from unit.trainer.ranks import run_script
from unit.trainer.sharded_run import STEPS, tiny_model

pytestmark = pytest.mark.timeout(600)


def dataset(folder: Path, pairs: int = 23, seed: int = 1) -> Dataset:
    """Pairs of answers of very different lengths. For kto the first answer is labelled, the second of another row."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    ids, labels, segments = [], [], []
    for prompt, *answers in random.integers(1, 15, size=(pairs, 3)):
        question = random.integers(1, 64, size=prompt).tolist()
        pair = [random.integers(1, 64, size=answer).tolist() for answer in answers]
        ids.append([token for answer in pair for token in (*question, *answer)])
        labels.append([label for answer in pair for label in (*[IGNORED] * len(question), *answer)])
        segments.append([len(question) + len(answer) for answer in pair])
    good = random.integers(0, 2, size=len(ids)).astype(bool).tolist()
    write_dataset(folder, ids, labels, segments, good=good)
    return Dataset(folder / FILE)


def log_probability(model: Any, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of the tokens that count, in a row alone."""
    logits = model(ids[None], use_cache=False).logits[0, :-1]
    return -functional.cross_entropy(logits, labels[1:], ignore_index=IGNORED, reduction="sum")


def log_ratios(model: Any, first: Any, data: Dataset, row: int) -> list[torch.Tensor]:
    """Of the two segments of a row."""
    lengths = data.segments(row).tolist()
    parts = (torch.split(torch.tensor(tokens(row)).long(), lengths) for tokens in (data.ids, data.labels))
    ratios = []
    for ids, labels in zip(*parts, strict=True):
        with torch.no_grad():
            before = log_probability(first, ids, labels)
        ratios.append(log_probability(model, ids, labels) - before)
    return ratios


def loss_of(settings: TrainingSpec, ratios: list[list[torch.Tensor]], good: list[bool]) -> torch.Tensor:
    """The loss of a step: Rafailov et al. 2023, equation 7; for kto Ethayarajh et al. 2024, section 4."""
    if settings.method == "dpo":
        return -functional.logsigmoid(torch.stack([settings.beta * (one - other) for one, other in ratios])).mean()
    moved = max(0.0, sum(other.item() for _, other in ratios) / len(ratios))
    losses = [
        settings.desirable_weight * (1 - torch.sigmoid(settings.beta * (one - moved)))
        if label
        else settings.undesirable_weight * (1 - torch.sigmoid(settings.beta * (moved - one)))
        for (one, _), label in zip(ratios, good, strict=True)
    ]
    return torch.stack(losses).mean()


def plain_losses(
    data: Dataset, adapter: Adapter | None = None, method: str = "dpo", model_type: str = "llama"
) -> list[float]:
    """The losses of the oracle."""
    return plain_training(data, data, adapter, method, model_type)[0]


def plain_training(
    data: Dataset, aside: Dataset, adapter: Adapter | None = None, method: str = "dpo", model_type: str = "llama"
) -> tuple[list[float], list[float]]:
    """The oracle: two whole models, one row at a time without padding; torch's own clipping.

    Returns the loss of each step, and that of `aside` after each.
    """
    tiny, settings = tiny_model(adapter, model_type), spec(method=method)
    first = deepcopy(tiny)
    trained = [p for p in tiny.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]])
    order = Order(data.lengths, Course.of(settings, len(data)), settings.seed)
    losses, validations = [], []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            factor = learning_rate_factor("cosine", step, STEPS, settings.warmup_ratio)
            group["lr"] = settings.learning_rate * factor
        rows = order.batch(step).tolist()
        ratios = [log_ratios(tiny, first, data, row) for row in rows]
        loss = loss_of(settings, ratios, data.good[rows].tolist())
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        with torch.no_grad():
            apart = [log_ratios(tiny, first, aside, row) for row in range(len(aside))]
            validations.append(loss_of(settings, apart, aside.good.tolist()).item())
    return losses, validations


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where every case has run."""
    folder = tmp_path_factory.mktemp("preference")
    dataset(folder)
    dataset(folder / "set-aside", pairs=9, seed=2)
    run_script("preference_run.py", folder)
    return folder


def losses(folder: Path, name: str) -> list[float]:
    return list(json.loads((folder / f"{name}.json").read_text()))


@pytest.mark.parametrize("name", ["four ranks", "two ranks", "accumulated, in chunks", "replicas"])
def test_any_split_of_the_pairs_gives_the_losses_of_one_plain_process(folder: Path, name: str) -> None:
    expected = plain_losses(Dataset(folder / FILE))
    assert losses(folder, name) == pytest.approx(expected, abs=1e-9)
    assert expected[0] == pytest.approx(0.693147, abs=1e-6)
    assert expected[-1] != pytest.approx(expected[0], abs=1e-2)


@pytest.mark.parametrize(("name", "adapter"), [("adapters", LORA), ("replicas of adapters", LORA), ("osf", OSF)])
def test_adapters_are_compared_with_the_model_without_them(folder: Path, name: str, adapter: Adapter) -> None:
    assert losses(folder, name) == pytest.approx(plain_losses(Dataset(folder / FILE), adapter), abs=1e-9)


def test_a_killed_run_goes_on_and_compares_with_the_same_weights(folder: Path) -> None:
    uninterrupted = losses(folder, "two ranks")
    assert losses(folder, "killed") == pytest.approx(uninterrupted[:3], abs=1e-9)
    assert losses(folder, "resumed") == pytest.approx(uninterrupted[2:], abs=1e-9)


def test_a_job_that_resumes_from_anothers_checkpoint_compares_with_the_first_weights_and_not_with_these(
    folder: Path,
) -> None:
    assert losses(folder, "another job") == pytest.approx(losses(folder, "two ranks")[2:], abs=1e-9)
    references = [(folder / run / "reference.json").read_text() for run in ("another-job", "two-ranks")]
    assert json.loads(references[0]) == pytest.approx(json.loads(references[1]), abs=1e-12)


def test_any_split_of_labelled_answers_gives_the_losses_of_one_plain_process(folder: Path) -> None:
    expected = plain_losses(Dataset(folder / FILE), method="kto")
    for name in ("four ranks", "accumulated, in chunks", "replicas"):
        assert losses(folder, f"labelled, {name}") == pytest.approx(expected, abs=1e-9)
    assert expected[-1] != pytest.approx(expected[0], abs=1e-2)


@pytest.mark.parametrize(("name", "adapter"), [("adapters", LORA), ("replicas of adapters", LORA), ("osf", OSF)])
def test_adapters_on_labelled_answers_are_compared_with_the_model_without_them(
    folder: Path, name: str, adapter: Adapter
) -> None:
    expected = plain_losses(Dataset(folder / FILE), adapter, "kto")
    assert losses(folder, f"labelled, {name}") == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "model_type" in case])
def test_another_type_of_model_has_the_losses_of_one_plain_process(folder: Path, name: str) -> None:
    case = CASES[name]
    expected = plain_losses(Dataset(folder / FILE), case.get("adapter"), case.get("method", "dpo"), case["model_type"])
    assert losses(folder, name) == pytest.approx(expected, abs=1e-9)


def test_a_killed_run_on_labelled_answers_goes_on_and_compares_with_the_same_weights(folder: Path) -> None:
    uninterrupted = losses(folder, "labelled, four ranks")
    assert losses(folder, "labelled, killed") == pytest.approx(uninterrupted[:3], abs=1e-9)
    assert losses(folder, "labelled, resumed") == pytest.approx(uninterrupted[2:], abs=1e-9)


@pytest.mark.parametrize(("method", "prefix"), [("dpo", ""), ("kto", "labelled, ")])
def test_the_loss_on_rows_that_are_set_aside_is_compared_with_the_same_weights_after_a_restart(
    folder: Path, method: str, prefix: str
) -> None:
    _, expected = plain_training(Dataset(folder / FILE), Dataset(folder / "set-aside" / FILE), method=method)
    assert losses(folder, f"{prefix}four ranks-validation") == pytest.approx(expected, abs=1e-9)
    assert losses(folder, f"{prefix}resumed-validation") == pytest.approx(expected[2:], abs=1e-9)

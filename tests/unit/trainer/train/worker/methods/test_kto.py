"""The loss of labelled answers. Its expected values are those of TRL's KTOTrainer, which is not a dependency.

They were computed once by TRL 1.16.0 with torch and transformers of this project, where `batch` has ANSWERS:
`batch = DataCollatorForUnpairedPreference(pad_token_id=0)([{"prompt_ids": …, "completion_ids": …,
"KL_completion_ids": …, "label": …}, …])`, `trainer = KTOTrainer(model=model_of(0.0), ref_model=model_of(1.0),
args=KTOConfig(beta=0.3, desirable_weight=1.5, undesirable_weight=0.8, …))`,
`trainer._compute_loss(trainer.model, batch, False).backward()`.
TRL computes log-probabilities in float32, also of a model in float64.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker import loss
from driftloop_trainer.train.worker.loss import row_log_probabilities
from driftloop_trainer.train.worker.methods.kto import Kto, Weights, segment_rows
from unit.trainer.train.worker.methods.test_dpo import model_of

# Prompt, answer, answer of another row, label.
ANSWERS = [
    ([3, 4, 5], [6, 7], [12, 13, 14], True),
    ([9, 10], [12, 13, 14], [5, 5], False),
    ([2], [5, 5], [15, 1, 4, 6], True),
    ([8, 2, 7], [15, 1, 4, 6], [6, 7], False),
]
ALL = range(4)
BETA, WEIGHTS = 0.3, Weights(1.5, 0.8)
TRL = {"loss": 0.6032598614692688, "moved": 0.22440063953399658, "norm": 0.106177873019223}


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    """This process as the only worker."""
    store = f"file://{tmp_path}/store"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1, timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [[(prompt, answer) for answer in answers] for prompt, *answers, _ in ANSWERS]
    write_dataset(
        tmp_path,
        [[token for prompt, answer in row for token in (*prompt, *answer)] for row in rows],
        [[label for prompt, answer in row for label in (*[IGNORED] * len(prompt), *answer)] for row in rows],
        [[len(prompt) + len(answer) for prompt, answer in row] for row in rows],
        good=[good for *_, good in ANSWERS],
    )
    return Dataset(tmp_path / FILE)


def kto_of(dataset: Dataset, phase: float = 1.0) -> Kto:
    first = model_of(phase)
    with torch.no_grad():
        parts = [row_log_probabilities(first, segment_rows(dataset, ALL, number, 0)) for number in range(2)]
    return Kto(dataset, 0, BETA, WEIGHTS, torch.stack(parts))


@pytest.mark.parametrize("chunk", [1000, 3])
def test_loss_and_gradient_are_those_of_trl(dataset: Dataset, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: chunk)
    kto, model = kto_of(dataset), model_of(0.0)
    batch = kto.batch(ALL)
    summed = kto.step_sums(model, [batch], 4)(model, batch) / kto.count(np.arange(4))
    summed[0].backward()  # type: ignore[no-untyped-call]
    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    assert summed[0].item() == pytest.approx(TRL["loss"], abs=2e-7)
    assert kto.moved(model, [batch], 4).item() == pytest.approx(TRL["moved"], abs=2e-6)
    assert norm.item() == pytest.approx(TRL["norm"], abs=2e-7)


def test_accuracy_and_margin_are_of_the_argument_of_the_sigmoid(dataset: Dataset) -> None:
    kto, model = kto_of(dataset), model_of(0.0)
    batch = kto.batch(ALL)
    with torch.no_grad():
        ratios = row_log_probabilities(model, batch) - kto.reference[0]
        _, accuracy, margin = kto.step_sums(model, [batch], 4)(model, batch).tolist()
    margins = [BETA * (1 if good else -1) * ratio for ratio, (*_, good) in zip(ratios.tolist(), ANSWERS, strict=True)]
    moved = BETA * TRL["moved"]
    expected = [one - moved if good else one + moved for one, (*_, good) in zip(margins, ANSWERS, strict=True)]
    assert accuracy == sum(one > 0 for one in expected)
    assert margin == pytest.approx(sum(expected), abs=1e-5)


def test_micro_batches_add_up_to_the_loss_of_all_rows(dataset: Dataset) -> None:
    kto, model = kto_of(dataset), model_of(0.0)
    whole = kto.batch(ALL)
    parts = [kto.batch(indices) for indices in ([2], [0, 1, 3], [])]
    expected = kto.step_sums(model, [whole], 4)(model, whole)
    sums = kto.step_sums(model, parts, 4)
    assert torch.stack([sums(model, part) for part in parts]).sum(0).tolist() == pytest.approx(
        expected.tolist(), abs=1e-12
    )


def test_a_model_that_has_moved_towards_no_answer_has_not_moved(dataset: Dataset) -> None:
    kto = kto_of(dataset)
    further = Kto(dataset, 0, BETA, WEIGHTS, kto.reference + 100)
    assert further.moved(model_of(0.0), [further.batch(ALL)], 4).item() == 0


def test_the_first_weights_have_the_loss_of_a_coin(dataset: Dataset) -> None:
    kto, model = kto_of(dataset), model_of(1.0)
    batch = kto.batch(ALL)
    sums = kto.step_sums(model, [batch], 4)(model, batch).tolist()
    assert sums == pytest.approx([2 * 0.5 * 1.5 + 2 * 0.5 * 0.8, 0, 0], abs=1e-12)


def test_a_batch_without_rows_has_a_gradient_of_zeros(dataset: Dataset) -> None:
    kto, model = kto_of(dataset), model_of(0.0)
    batch = kto.batch([])
    sums = kto.step_sums(model, [batch], 1)(model, batch)
    sums[0].backward()  # type: ignore[no-untyped-call]
    assert sums.tolist() == [0, 0, 0]
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())


def test_the_model_trains_on_with_dropout_after_it_was_measured(dataset: Dataset) -> None:
    kto, model = kto_of(dataset), model_of(0.0)
    model.train()
    kto.moved(model, [kto.batch(ALL)], 4)
    assert model.training

"""The loss of pairs. Its expected values are those of TRL's DPOTrainer, which is not a dependency.

They were computed once by TRL 1.16.0 with torch and transformers of this project, where `batch` has PAIRS:
`batch = DataCollatorForPreference(pad_token_id=0)([{"prompt_ids": …, "chosen_ids": …, "rejected_ids": …}, …])`,
`trainer = DPOTrainer(model=model_of(0.0), ref_model=model_of(1.0), args=DPOConfig(beta=0.3, …))`,
`trainer._compute_loss(trainer.model, batch, False).backward()`.
TRL computes log-probabilities in float32, also of a model in float64.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker import loss
from driftloop_trainer.train.worker.methods.dpo import Dpo, log_ratios, pair_rows

PAIRS = [([3, 4, 5], [6, 7], [8]), ([9, 10], [11, 2], [12, 13, 14]), ([2], [15, 1, 4, 6], [5, 5])]
BETA = 0.3
TRL = {"loss": 0.6763918995857239, "accuracy": 2 / 3, "margin": 0.03742186725139618, "norm": 0.2398668706240439}


def model_of(phase: float) -> Any:
    """A model whose weights no generator of random numbers decides."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=16, max_position_embeddings=32, **sizes))  # type: ignore[arg-type]
    model.to(torch.float64)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            parameter.copy_(torch.sin(places * 1.7 + number + phase).view_as(parameter) * 0.5)
    return model


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    rows = [[(prompt, answer) for answer in answers] for prompt, *answers in PAIRS]
    write_dataset(
        tmp_path,
        [[token for prompt, answer in row for token in (*prompt, *answer)] for row in rows],
        [[label for prompt, answer in row for label in (*[IGNORED] * len(prompt), *answer)] for row in rows],
        [[len(prompt) + len(answer) for prompt, answer in row] for row in rows],
    )
    return Dataset(tmp_path / FILE)


def dpo_of(dataset: Dataset) -> Dpo:
    with torch.no_grad():
        reference = log_ratios(model_of(1.0), pair_rows(dataset, [0, 1, 2], 0), 3)
    return Dpo(dataset, 0, BETA, reference)


@pytest.mark.parametrize("chunk", [1000, 3])
def test_loss_measures_and_gradient_are_those_of_trl(
    dataset: Dataset, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: chunk)
    dpo, model = dpo_of(dataset), model_of(0.0)
    sums = dpo.sums(model, dpo.batch([0, 1, 2])) / dpo.count(np.arange(3))
    sums[0].backward()  # type: ignore[no-untyped-call]
    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    assert sums.tolist() == pytest.approx([TRL["loss"], TRL["accuracy"], TRL["margin"]], abs=2e-7)
    assert norm.item() == pytest.approx(TRL["norm"], abs=2e-7)


def test_micro_batches_add_up_to_the_loss_of_all_pairs(dataset: Dataset) -> None:
    dpo, model = dpo_of(dataset), model_of(0.0)
    whole = dpo.sums(model, dpo.batch([0, 1, 2]))
    parts = [dpo.sums(model, dpo.batch(indices)) for indices in ([2], [0, 1], [])]
    assert torch.stack(parts).sum(0).tolist() == pytest.approx(whole.tolist(), abs=1e-12)


def test_the_first_weights_have_the_loss_of_a_coin(dataset: Dataset) -> None:
    dpo = dpo_of(dataset)
    assert dpo.sums(model_of(1.0), dpo.batch([0, 1, 2])).tolist() == pytest.approx([3 * math.log(2), 0, 0], abs=1e-12)


def test_a_batch_without_pairs_has_a_gradient_of_zeros(dataset: Dataset) -> None:
    dpo, model = dpo_of(dataset), model_of(0.0)
    sums = dpo.sums(model, dpo.batch([]))
    sums[0].backward()  # type: ignore[no-untyped-call]
    assert sums.tolist() == [0, 0, 0]
    assert not any(p.grad is not None and p.grad.any() for p in model.parameters())

"""The loss of rows with one answer. Its expected values are those of TRL's SFTTrainer, which is not a dependency.

They were computed once by TRL 1.16.0 with torch and transformers of this project, where `batch` has ROWS:
`batch = DataCollatorForLanguageModeling(pad_token_id=0)([{"input_ids": …, "labels": …}, …])`,
`trainer = SFTTrainer(model=model_of(0.0), args=SFTConfig(dataset_kwargs={"skip_prepare_dataset": True}, …), …)`,
`trainer.compute_loss(trainer.model, batch).backward()`. Its loss is in float32, also of a model in float64.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from driftloop_trainer.dataset import FILE, IGNORED, Dataset, write_dataset
from driftloop_trainer.train.worker import loss
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from unit.trainer.train.worker.methods.test_dpo import model_of

ROWS = [([3, 4, 5], [6, 7]), ([9, 10], [11, 2, 5, 8]), ([2], [15])]
# Loss and norm of the gradient by `training.lossOn`.
TRL = {"completion": (2.812408447265625, 0.7465872537015786), "all": (2.814323902130127, 0.8366117290053984)}


@pytest.mark.parametrize("chunk", [1000, 3])
@pytest.mark.parametrize("micro_batches", [[[0, 1, 2]], [[2], [0, 1], []]])
@pytest.mark.parametrize("loss_on", TRL)
def test_loss_and_gradient_are_those_of_trl(
    loss_on: str, micro_batches: list[list[int]], chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: chunk)
    labels = [[*(prompt if loss_on == "all" else [IGNORED] * len(prompt)), *answer] for prompt, answer in ROWS]
    labels = [[IGNORED, *row[1:]] for row in labels]  # no token precedes the first one
    write_dataset(tmp_path, [[*prompt, *answer] for prompt, answer in ROWS], labels, [[len(row)] for row in labels])
    method, model = NextToken(Dataset(tmp_path / FILE), 0), model_of(0.0)
    batches = [method.batch(indices) for indices in micro_batches]
    count = method.count(np.arange(len(ROWS)))
    total = torch.zeros(1, dtype=torch.float64)
    for batch in batches:
        summed = method.step_sums(model, batches, count)(model, batch) / count
        summed.sum().backward()  # type: ignore[no-untyped-call]
        total += summed.detach()
    norm = torch.stack([p.grad.square().sum() for p in model.parameters()]).sum().sqrt()
    expected, expected_norm = TRL[loss_on]
    assert total.item() == pytest.approx(expected, abs=3e-7)
    assert norm.item() == pytest.approx(expected_norm, abs=3e-7)

"""The loss in chunks is the loss of the whole, in value and gradient, for every type of which that is claimed."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.models import CHUNKED_TYPES, config_for
from driftloop_trainer.train.worker import loss
from driftloop_trainer.train.worker.batches import Batch
from unit.trainer.test_models import GROUPED, MIXTURE, NAMED, SIZES

MORE: dict[str, dict[str, Any]] = NAMED | {
    "cohere": {"logit_scale": 0.5},
    "gemma2": {"final_logit_softcapping": 30.0},
    "granite": {"logits_scaling": 2.0},
    "opt": {"ffn_dim": 32, "word_embed_proj_dim": SIZES["hidden_size"]},
}


def model_of(model_type: str) -> Any:
    torch.manual_seed(0)
    config = config_for(SIZES | GROUPED | MIXTURE | MORE.get(model_type, {}) | {"model_type": model_type})
    return AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]


def batch_of() -> Batch:
    """Two rows of which 11 columns are kept, some without a target."""
    ids = torch.randint(3, 60, (2, 12))
    targets = ids[:, 1:].clone()
    targets[0, :4] = IGNORED
    return Batch(ids, targets, torch.arange(11), None)


def with_gradients(model: Any, batch: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    value = loss.loss_sum(model, batch)
    value.backward()  # type: ignore[no-untyped-call]
    return value.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def differing(model_type: str, monkeypatch: pytest.MonkeyPatch) -> float:
    """The largest relative difference between loss and gradients of the whole and those in chunks of five tokens."""
    model, batch = model_of(model_type), batch_of()
    whole, gradients = with_gradients(model, batch)
    monkeypatch.setattr(loss, "CHUNKED_TYPES", {model_type})
    monkeypatch.setattr(loss, "chunk_tokens", lambda _: 5)
    forward = model.get_output_embeddings().forward
    chunked, others = with_gradients(model, batch)
    assert model.get_output_embeddings().forward == forward
    assert gradients.keys() == others.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    return max(
        abs(whole - chunked) / abs(whole),
        *(float((gradients[name] - others[name]).abs().max()) / largest for name in gradients),
    )


@pytest.mark.parametrize("model_type", sorted(CHUNKED_TYPES))
def test_the_loss_in_chunks_is_the_loss_of_the_whole(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert differing(model_type, monkeypatch) < 1e-5


@pytest.mark.parametrize("model_type", ["cohere", "gemma2", "granite"])
def test_the_check_finds_types_that_change_their_logits(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_type not in CHUNKED_TYPES
    assert differing(model_type, monkeypatch) > 1e-3


def test_no_more_than_a_chunk_of_logits_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, cross_entropy = [], loss._cross_entropy

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape[0])
        return cross_entropy(logits, targets)

    monkeypatch.setattr(loss, "_cross_entropy", watched)
    monkeypatch.setattr(loss, "chunk_tokens", lambda _: 5)
    with_gradients(model_of("llama"), batch_of())
    assert seen == [5, 5, 5, 5, 2, 2, 5, 5, 5, 5]  # forward, and again in the backward pass

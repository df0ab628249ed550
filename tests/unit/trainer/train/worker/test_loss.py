"""The loss in chunks is the loss of the whole, in value and gradient, for every type of which that is claimed."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from driftloop.api.finetunejob import Adapter
from driftloop_trainer.dataset import IGNORED
from driftloop_trainer.models import CHUNKED_TYPES, config_for, with_adapter
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
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: 5)
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


def watched_chunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The tokens whose logits are computed at a time from now on."""
    seen: list[int] = []
    cross_entropy = loss._cross_entropy

    def watched(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape[0])
        return cross_entropy(logits, targets)

    monkeypatch.setattr(loss, "_cross_entropy", watched)
    return seen


def seen_chunks(monkeypatch: pytest.MonkeyPatch, weighted: bool) -> list[int]:
    """The tokens whose logits were computed at a time. `weighted`: with a weight for each token."""
    seen = watched_chunks(monkeypatch)
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: 5)
    model, batch = model_of("llama"), batch_of()
    losses = loss.token_losses(model, batch) * torch.arange(11) if weighted else loss.loss_sum(model, batch)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    return seen


def test_no_more_than_a_chunk_of_logits_exists_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen_chunks(monkeypatch, weighted=True) == [5, 5, 5, 5, 2, 2, 5, 5, 5, 5]  # again in the backward pass


def test_the_logits_of_a_sum_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert seen_chunks(monkeypatch, weighted=False) == [5, 5, 5, 5, 2]


@pytest.mark.parametrize("targets", ["lora_", "model.layers"])
def test_an_output_layer_that_is_partly_or_not_trained_gets_its_gradients(
    targets: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = Adapter(type="lora", r=4, lora_dropout=0.0, target_modules=["lm_head", "q_proj"])
    model, batch = with_adapter(model_of("llama"), adapter).eval(), batch_of()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(targets in name)
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    whole, gradients = with_gradients(model, batch)
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: 5)
    chunked, others = with_gradients(model, batch)
    assert chunked == pytest.approx(whole, rel=1e-6)
    assert gradients.keys() == others.keys()
    assert all(torch.allclose(gradients[name], others[name], rtol=1e-4, atol=1e-5) for name in gradients)


def test_the_gradient_is_scaled_like_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss, "chunk_tokens", lambda *_: 5)
    model, batch = model_of("llama"), batch_of()
    _, gradients = with_gradients(model, batch)
    model.zero_grad()
    (loss.loss_sum(model, batch) / 4).backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert torch.allclose(parameter.grad, gradients[name] / 4, rtol=1e-5, atol=1e-7), name


def test_fewer_logits_exist_at_a_time_if_they_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = watched_chunks(monkeypatch)
    model = model_of("llama")
    ids = torch.randint(3, 60, (2, 101))
    batch = Batch(ids, ids[:, 1:].clone(), torch.arange(100), None)
    whole, gradients = with_gradients(model, batch)
    vocabulary = model.config.vocab_size
    for most, size in ((150 * vocabulary * 4, 150), (1, 64)):
        loss.limit_logits(model, most)
        seen.clear()
        chunked, others = with_gradients(model, batch)
        assert seen == [size] * (200 // size) + [200 % size]
        assert chunked == pytest.approx(whole, rel=1e-6)
        assert all(torch.allclose(gradients[name], others[name], rtol=1e-4, atol=1e-5) for name in gradients)

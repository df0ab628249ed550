"""Orthogonal subspace fine-tuning. PEFT's own layers are the oracle."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from peft import OSFConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop.api.finetunejob import Adapter
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.models import with_adapter
from driftloop_trainer.osf import OsfLinear, merged, osf_layers, rank_kept

OSF = Adapter(type="osf", effective_rank=0.4)


def tiny() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=16, max_position_embeddings=32, **sizes))  # type: ignore[arg-type]


def trained(model: Any) -> Any:
    """The model after three steps of AdamW."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2, weight_decay=0.0)
    random = torch.Generator().manual_seed(1)
    for _ in range(3):
        ids = torch.randint(16, (4, 9), generator=random)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_training_is_that_of_peft() -> None:
    base = tiny()
    theirs = trained(get_peft_model(deepcopy(base), OSFConfig(effective_rank=0.4, target_modules="all-linear")))
    ours = trained(with_adapter(deepcopy(base), OSF))
    expected = theirs.merge_and_unload().state_dict()
    layers = osf_layers(ours)
    assert len(layers) == 2 * 7
    for name, layer in layers.items():
        weight = expected[f"{name}.weight"]
        assert torch.allclose(merged(layer), weight, atol=2e-5)
        assert not torch.allclose(weight, base.get_parameter(f"{name}.weight"), atol=1e-3)


def test_it_starts_as_the_same_model() -> None:
    base, ids = tiny(), torch.arange(10)[None]
    ours = with_adapter(deepcopy(base), OSF)
    assert torch.allclose(ours(ids).logits, base(ids).logits, atol=1e-5)


def test_gradients_have_no_component_along_the_directions_that_are_kept() -> None:
    model, ids = with_adapter(tiny(), OSF), torch.arange(10)[None]
    model(ids, labels=ids).loss.backward()
    for layer in osf_layers(model).values():
        assert layer.osf_u.grad is not None
        assert layer.osf_v.grad is not None
        for gradient, along in (
            (layer.osf_u.grad, layer.osf_u_kept.T @ layer.osf_u.grad),
            (layer.osf_v.grad, layer.osf_v.grad @ layer.osf_v_kept.T),
        ):
            assert 0 < 1e4 * along.abs().max() < gradient.abs().max()
        assert layer.base_layer.weight.grad is None


@pytest.mark.parametrize(("share", "kept"), [(0.5, 4), (0.01, 1), (0.99, 7)])
def test_at_least_one_direction_is_kept_and_one_is_trained(share: float, kept: int) -> None:
    layer = OsfLinear(nn.Linear(8, 12), share)
    assert layer.kept == rank_kept(torch.Size((12, 8)), share) == kept
    assert layer.osf_s.shape == (8 - kept,)


def test_only_the_named_layers_are_cut_and_unknown_ones_are_refused() -> None:
    named = OSF.model_copy(update={"target_modules": ["q_proj", "lm_head"]})
    assert {name.rpartition(".")[2] for name in osf_layers(with_adapter(tiny(), named))} == {"q_proj", "lm_head"}
    with pytest.raises(StageFailure, match=r"training\.adapter\.targetModules: no linear layer of the model is in x"):
        with_adapter(tiny(), OSF.model_copy(update={"target_modules": ["x"]}))

"""Stages have each part of a model once, under its name, and together compute what the model computes."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import Adapter
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.train.worker.stages import check_stages, keep_stages, layers_of, only, own_layers, twin
from unit.trainer.sharded_run import tiny_model

IDS = torch.arange(12).reshape(2, 6)


@given(stages=st.integers(1, 64), more=st.integers(0, 200))
def test_each_layer_is_in_one_stage_and_sizes_differ_by_one_at_most(stages: int, more: int) -> None:
    layers = stages + more
    parts = [layers_of(stage, stages, layers) for stage in range(stages)]
    assert [layer for part in parts for layer in part] == list(range(layers))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def cut(workers: int, each: int = 1, **model: Any) -> list[Any]:
    """What each of the workers keeps of a model, of which it has `each` stages."""
    stages = workers * each
    parts = [tiny_model(num_hidden_layers=max(3, stages), **model) for _ in range(workers)]
    for worker, part in enumerate(parts):
        keep_stages(part, range(worker, stages, workers), stages)
    return parts


@pytest.mark.parametrize("model_type", ["llama", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("workers", "each"), [(2, 1), (3, 1), (2, 2), (2, 3)])
def test_stages_after_each_other_compute_what_the_whole_model_does(
    model_type: str, tied: bool, workers: int, each: int
) -> None:
    fields: dict[str, Any] = {"model_type": model_type, "tie_word_embeddings": tied}
    whole, parts = tiny_model(num_hidden_layers=max(3, workers * each), **fields), cut(workers, each, **fields)
    kept = [list(part.state_dict()) for part in parts]
    assert sorted(name for names in kept for name in names) == sorted(whole.state_dict())
    assert torch.equal(after_each_other(parts, each), whole(IDS, use_cache=False).logits)
    assert [list(part.state_dict()) for part in parts] == kept


BETWEEN_MODULES: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.5},
    "gemma2": {"final_logit_softcapping": 0.5},
    "granite": {"embedding_multiplier": 3.0, "logits_scaling": 2.0},
    "phi": {"embd_pdrop": 0.5},
    "starcoder2": {"embedding_dropout": 0.5, "residual_dropout": 0.0},
}


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("model_type", BETWEEN_MODULES)
def test_what_a_model_computes_without_modules_is_computed_by_one_stage(model_type: str, each: int) -> None:
    """Embeddings are multiplied or partly dropped before the first layer, and logits are scaled or capped."""
    fields = BETWEEN_MODULES[model_type] | {"model_type": model_type, "pad_token_id": 0}
    whole, parts = tiny_model(num_hidden_layers=max(3, 2 * each), **fields), cut(2, each, **fields)
    torch.manual_seed(1)
    expected = whole(IDS, use_cache=False).logits
    torch.manual_seed(1)
    assert torch.equal(after_each_other(parts, each), expected)


def after_each_other(parts: list[Any], each: int) -> torch.Tensor:
    """What the last stage returns. Each worker has `each` stages."""
    workers, states = len(parts), torch.empty(0)
    for stage in range(workers * each):
        part = parts[stage % workers]
        with only(part, stage, workers * each, states):
            states = part(IDS, use_cache=False).logits
    return states


def test_a_stage_that_fails_leaves_the_others_in_their_place() -> None:
    part = cut(2, 2)[0]
    before = list(part.state_dict())
    with pytest.raises(InterruptedError), only(part, 2, 4, torch.empty(0)):
        raise InterruptedError
    assert list(part.state_dict()) == before


def test_each_stage_has_its_own_layers() -> None:
    first = cut(2, 2)[0]
    layers = first.model.layers
    assert own_layers(first, (0, 2), 4) == [[layers[0]], [layers[2]]]


def test_only_the_first_and_the_last_stage_have_a_part_of_tied_embeddings() -> None:
    first, middle, last = cut(3)
    assert twin(first, (0,), 3) is first.get_input_embeddings().weight
    assert twin(middle, (1,), 3) is None
    assert twin(last, (2,), 3) is last.get_output_embeddings().weight
    untied = cut(2, tie_word_embeddings=False)
    assert [twin(part, (stage,), 2) for stage, part in enumerate(untied)] == [None, None]
    for part in (first, last):
        part.requires_grad_(False)
    assert [twin(first, (0,), 3), twin(last, (2,), 3)] == [None, None]


def test_adapters_that_leave_a_stage_untrained_are_refused() -> None:
    everywhere = tiny_model(Adapter(type="lora", r=2, target_modules=["q_proj"]))
    check_stages(everywhere, 2)
    only_below = tiny_model(Adapter(type="lora", r=2, target_modules=["0.self_attn.q_proj"]))
    check_stages(only_below, 1)
    with pytest.raises(StageFailure, match="targetModules: no adapter is in the layers of stage 2 of 2: add modules"):
        check_stages(only_below, 2)

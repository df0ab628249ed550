"""Modules whose weights transformers' plan leaves whole between split matrices are known before a training."""

from typing import Any

import pytest

from driftloop.api.finetunejob import Adapter
from driftloop.controller.kinds.finetunejob.cells import TENSOR_TYPES
from driftloop_trainer.models import config_for, model_facts
from unit.trainer.sharded_run import SIZES
from unit.trainer.test_exactness import typed


def left_whole(fields: dict[str, Any]) -> str:
    return model_facts(config_for(SIZES | fields), Adapter()).left_whole


@pytest.mark.parametrize("model_type", TENSOR_TYPES)
def test_types_that_are_split_have_no_such_module(model_type: str) -> None:
    assert left_whole(typed(model_type, tied=False)) == ""


@pytest.mark.parametrize(
    ("model_type", "fields", "module"),
    [
        ("apertus", {}, "mlp.act_fn"),
        ("cohere", {"use_qk_norm": True}, "self_attn.q_norm"),
        ("phi", {"qk_layernorm": True}, "self_attn.q_layernorm"),
    ],
)
def test_a_norm_of_heads_or_an_activation_with_weights_is_named(
    model_type: str, fields: dict[str, Any], module: str
) -> None:
    assert left_whole(typed(model_type, tied=False) | fields) == module


def test_types_without_a_plan_have_none() -> None:
    assert left_whole({"model_type": "gpt2"}) == ""

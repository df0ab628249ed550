"""Modules with weights that no plan splits exactly are known before a training."""

from typing import Any

import pytest

from driftloop.api.finetunejob import Adapter
from driftloop.controller.kinds.finetunejob.cells import TENSOR_TYPES
from driftloop_trainer import tensorplan
from driftloop_trainer.models import config_for, model_facts
from driftloop_trainer.tensorplan import KINDS
from driftloop_trainer.train.worker.tensor import style
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
def test_a_module_that_only_our_plan_names_would_be_named_without_it(
    model_type: str, fields: dict[str, Any], module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = typed(model_type, tied=False) | fields
    assert left_whole(model) == ""
    monkeypatch.setattr(tensorplan, "OWN", {})
    assert left_whole(model) == module


def test_a_module_with_a_kind_that_is_not_known_is_named() -> None:
    assert left_whole(typed("doge", tied=False) | {"is_moe": True}) == "mlp.router_gate"


def test_each_kind_has_a_style() -> None:
    config = config_for(SIZES | {"model_type": "llama"})
    assert all(style(kind, config) for kind in KINDS)


def test_types_without_a_plan_have_none() -> None:
    assert left_whole({"model_type": "gpt2"}) == ""

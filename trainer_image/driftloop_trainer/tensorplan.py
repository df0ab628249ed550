"""The plan to split the matrices of a layer, by the names of modules with `*` for the number of a layer.

It is that of transformers' configuration. Where transformers computes a part of a layer whole in each worker, or leaves
a module out that has weights, OWN has a plan that splits it. worker/tensor.py has the kinds.
"""

from collections.abc import Mapping
from typing import Any

_NORMS_OF_ALL_HEADS = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "colwise"),
    **dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), "norm_of_all_heads"),
    "self_attn.o_proj": "rowwise",
}
_JOINED_MLP = {"mlp.gate_up_proj": "gate_up", "mlp.down_proj": "rowwise"}
_LATENT = {
    **dict.fromkeys(("self_attn.q_proj", "self_attn.q_b_proj", "self_attn.kv_b_proj"), "colwise"),
    **dict.fromkeys(("self_attn.q_a_proj", "self_attn.q_a_layernorm", "self_attn.kv_a_layernorm"), "replicated"),
    "self_attn.kv_a_proj_with_mqa": "latent",
    "self_attn.o_proj": "rowwise",
}
# By the type of model, and the name of a module in a layer; "" is the layer itself.
OWN: Mapping[str, Mapping[str, str]] = {
    "apertus": {"mlp.act_fn": "summed"},
    "cohere": dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), "split"),
    "doge": dict.fromkeys(("self_attn.q_norm", "self_attn.k_norm"), "replicated_with_grad_allreduce")
    | {"": "whole", "self_attn": "split", "self_attn.dt_proj": "rowwise_split_output"},
    "glm": _JOINED_MLP,
    "glm4": _JOINED_MLP,
    "granite_swa": {"self_attn": "split"},
    "minicpm3": _LATENT,
    "olmo2": _NORMS_OF_ALL_HEADS,
    "olmo3": _NORMS_OF_ALL_HEADS,
    "phi": {"self_attn.q_layernorm": "summed", "self_attn.k_layernorm": "summed"},
    "phi3": _JOINED_MLP | {"self_attn": "heads", "self_attn.qkv_proj": "qkv", "self_attn.o_proj": "rowwise"},
    "youtu": _LATENT,
}

# The kinds that are known to be exact.
KINDS = frozenset(
    (
        *("colwise", "rowwise", "rowwise_split_output", "replicated", "replicated_with_grad_allreduce"),
        *("gate_up", "heads", "latent", "norm_of_all_heads", "qkv", "split", "summed", "whole"),
    )
)


def starred(name: str) -> str:
    """The name with `*` for each number.

    >>> starred("model.layers.11.mlp.up_proj")
    'model.layers.*.mlp.up_proj'
    """
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def planned_kinds(model: Any) -> dict[str, str]:
    """The kinds of the bare model's modules that are split."""
    plan = dict(getattr(model.config, "base_model_tp_plan", None) or {})
    plan |= {f"layers.*.{module}".rstrip("."): kind for module, kind in OWN.get(model.config.model_type, {}).items()}
    return {f"{model.base_model_prefix}.{key}": kind for key, kind in plan.items()}


def left_whole(model: Any) -> str:
    """A module with weights that can't be split exactly; empty if there is none.

    The plan has another kind for it, or does not name it although it is beside the split matrices of a block: each
    worker would compute it for its part of the block, and get another gradient.
    """
    planned = planned_kinds(model)
    blocks = tuple(f"{key.rpartition('.')[0]}." for key, kind in planned.items() if kind == "rowwise")
    for name, module in model.named_modules():
        key = starred(name)
        if not list(module.parameters(recurse=False)):
            continue
        if planned[key] not in KINDS if key in planned else key.startswith(blocks):
            return key.rpartition("*.")[2]
    return ""

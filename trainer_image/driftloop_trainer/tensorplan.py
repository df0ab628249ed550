"""transformers' plan to split the matrices of a layer, by the names of modules with `*` for the number of a layer."""

from typing import Any


def starred(name: str) -> str:
    """The name with `*` for each number.

    >>> starred("model.layers.11.mlp.up_proj")
    'model.layers.*.mlp.up_proj'
    """
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def planned_kinds(model: Any) -> dict[str, str]:
    """The kinds of the bare model's modules that are split."""
    plan = getattr(model.config, "base_model_tp_plan", None) or {}
    return {f"{model.base_model_prefix}.{key}": kind for key, kind in plan.items()}


def left_whole(model: Any) -> str:
    """A module with weights beside the split matrices of a block that the plan does not name; empty if there is none.

    Each worker would compute it for its part of the block, and get another gradient.
    """
    planned = planned_kinds(model)
    blocks = tuple(f"{key.rpartition('.')[0]}." for key, kind in planned.items() if kind == "rowwise")
    for name, module in model.named_modules():
        key = starred(name)
        if key.startswith(blocks) and key not in planned and list(module.parameters(recurse=False)):
            return key.rpartition("*.")[2]
    return ""

"""The cells of the table that the cases of tests prove, and a case for a cell."""

from collections.abc import Mapping
from typing import Any

from driftloop.controller.kinds.finetunejob.cells import Axis, Cell

AXES: tuple[Axis, ...] = ("pipeline", "replicate", "context", "tensor")
ADAPTERS = ("lora", "qlora", "osf")


def cell_of(case: Mapping[str, Any]) -> Cell | None:
    """The cell that a case of sharded_run.py proves; None if it is only a part of a run, or has dropout."""
    if "run" in case or "dropout" in case:
        return None
    sizes = {axis: case.get(axis, 1) for axis in AXES} | {"stages": case.get("stages_per_worker", 1)}
    sharing = sizes["pipeline"] * sizes["replicate"] * sizes["context"] * sizes["tensor"]
    axes: frozenset[Any] = frozenset(
        axis for axis, size in (sizes | {"fsdp": case["world_size"] // sharing}).items() if size > 1
    )
    model = case.get("model", {})
    adapter = next((adapter for adapter in ADAPTERS if case.get(adapter)), "none")
    return Cell(
        model_type=model.get("model_type", "llama"),
        axes=axes,
        adapter=f"{adapter} on {', '.join(case['targets'])}" if "targets" in case else adapter,
        packing=case.get("data") == "packed",
        compiled="compiled" in case,
        float8=model.get("float8", False),
    )


def case_of(cell: Cell, model: Mapping[str, Any]) -> dict[str, Any]:
    """A case for a cell. `model`: the fields of a tiny model of its type."""
    case: dict[str, Any] = {axis: 2 for axis in AXES if axis in cell.axes}
    world = 2 ** len(cell.axes)
    fields = dict(model)
    if {"context", "tensor"} <= cell.axes:
        fields["num_key_value_heads"] = 4
    if cell.adapter == "qlora":
        # With weights of the usual 0.02, a gradient of an adapter is as small as AdamW's epsilon, which magnifies the
        # last bits of a rounding that differs between CPUs.
        fields["initializer_range"] = 0.03
    case |= {"data": "packed"} if cell.packing else {}
    case |= {"compiled": "aot_eager"} if cell.compiled else {}
    case |= {} if cell.adapter == "none" else {cell.adapter: True}
    # One row at a time makes the last micro-batch of a worker empty; stages have at least two micro-batches.
    return case | {
        "world_size": world,
        "micro_size": 1 if world == 4 and "replicate" in cell.axes else 2,
        "model": fields,
    }


def preference_cell_of(case: Mapping[str, Any]) -> Cell | None:
    """The cell that a case of preference_run.py proves; None if it is only a part of a run."""
    if "run" in case or "resume_from" in case:
        return None
    replicas = case.get("replicas", 1)
    sizes: dict[Axis, int] = {"replicate": replicas, "fsdp": case["world_size"] // replicas}
    return Cell(
        model_type=case.get("model_type", "llama"),
        axes=frozenset(axis for axis, size in sizes.items() if size > 1),
        adapter=case["adapter"].type if "adapter" in case else "none",
        method=case.get("method", "dpo"),
    )

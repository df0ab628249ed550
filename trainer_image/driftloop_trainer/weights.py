"""The weights in a model folder's safetensors files: which tensor there is which weight of the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    dot_natural_key,
    rename_source_key,
)

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.heavy import loading
from driftloop.podlib.tensors import Tensor, model_tensors


@dataclass(frozen=True, slots=True)
class StackedTensor:
    """A weight that is stored in parts: the experts of a layer, and the matrices of each. `name`: in the model.

    `parts[i]`, one after the other in their first dimension, are entry i of the weight's first dimension.
    """

    name: str
    parts: tuple[tuple[Tensor, ...], ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of the parts."""
        return self.parts[0][0].dtype

    @property
    def shape(self) -> torch.Size:
        """Of the whole weight."""
        first = self.parts[0]
        return torch.Size((len(self.parts), sum(part.shape[0] for part in first), *first[0].shape[1:]))

    def read(self) -> torch.Tensor:
        """The whole weight. Raises StorageError."""
        return self.rows(0, len(self.parts))

    def rows(self, first: int, count: int) -> torch.Tensor:
        """`count` entries of the first dimension from `first` on. Raises StorageError."""
        return torch.stack([torch.cat([part.read() for part in entry]) for entry in self.parts[first : first + count]])

    def names(self) -> list[str]:
        """The names of the parts in the files."""
        return [part.name for entry in self.parts for part in entry]

    def divided(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of `weight`, by their names in the files. They share no memory."""
        pieces = [piece for entry in weight for piece in entry.split([part.shape[0] for part in self.parts[0]])]
        return {name: piece.clone() for name, piece in zip(self.names(), pieces, strict=True)}


Stored = Tensor | StackedTensor


def stored_weights(model: Any, stored: Mapping[str, Tensor]) -> dict[str, Stored] | None:
    """Where a bare model's weights are in its files, by their names in the model; tied weights have one name.

    None if transformers rearranges them otherwise than by stacking. Raises StageFailure if one is missing, or has
    another shape.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    expected = model.state_dict()
    by_name: dict[str, Stored] = {}
    parts: dict[str, dict[str, list[Tensor]]] = {}  # by weight and pattern
    for name, tensor in stored.items():
        renamed, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if pattern is None:
            by_name[renamed] = tensor
        elif _stacks(by_pattern[pattern]):
            parts.setdefault(renamed, {pattern: [] for pattern in by_pattern[pattern].source_patterns})
            parts[renamed][pattern].append(tensor)
        else:
            return None
    by_name |= {name: _stacked(name, list(lists.values())) for name, lists in parts.items()}
    weights: dict[str, Stored] = {}
    missing = []
    for first, *others in tied_names(model):
        tensor_of_it = next((by_name[name] for name in (first, *others) if name in by_name), None)
        if tensor_of_it is None:
            missing.append(first)
        else:
            weights[first] = tensor_of_it
    if missing:
        raise StageFailure(
            StageReason.MODEL_NOT_FOUND,
            f"the weights lack {', '.join(missing[:5])}{', …' if missing[5:] else ''}, which config.json asks for",
        )
    for name, weight in weights.items():
        if expected[name].shape != weight.shape:
            raise StageFailure(
                StageReason.MODEL_NOT_FOUND,
                f"{weight.name} has the shape {list(weight.shape)}, but config.json asks for "
                f"{list(expected[name].shape)}",
            )
    return weights


def _stacks(converter: WeightConverter) -> bool:
    """Whether a converter only stacks tensors such as the experts of a layer, each of one part or several."""
    steps = [(type(step), getattr(step, "dim", None)) for step in converter.operations]
    return steps in ([(MergeModulelist, 0)], [(MergeModulelist, 0), (Concatenate, 1)])


def _stacked(name: str, parts: list[list[Tensor]]) -> StackedTensor:
    """A weight of these parts of its entries, in transformers' order. Raises StageFailure if an entry lacks a part."""
    ordered = [sorted(tensors, key=lambda tensor: dot_natural_key(tensor.name)) for tensors in parts]
    if len({len(tensors) for tensors in ordered}) != 1:
        raise StageFailure(StageReason.MODEL_NOT_FOUND, f"the weights lack parts of {name}, which config.json asks for")
    return StackedTensor(name, tuple(zip(*ordered, strict=True)))


def is_rearranged(model: Any) -> bool:
    """Whether transformers may rearrange the model's weights when it reads them, in a way that is unknown here."""
    transforms = get_model_conversion_mapping(model)
    return any(isinstance(transform, WeightConverter) and not _stacks(transform) for transform in transforms)


def meta_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a configuration, on the device where weights take no memory."""
    with loading(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


def check_weights(config: Any, uri: str, bases: Sequence[str] = ()) -> None:
    """Refuse a folder whose weights are not those of its configuration. Reads the headers of its files alone.

    `bases`: as for `model_tensors`. Raises StageFailure, StorageError and ManifestError.
    """
    stored_weights(meta_model(config), model_tensors(uri, bases))


def tied_names(model: nn.Module) -> list[list[str]]:
    """The names of each parameter and persistent buffer: several where it is tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())

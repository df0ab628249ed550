"""The weights in a model folder's safetensors files: where each lies, and which weight of the model it is."""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from driftloop.contract.reasons import StageReason
from driftloop.contract.uris import join
from driftloop.podlib.ending import StageFailure
from driftloop.podlib.heavy import loading
from driftloop.podlib.storage import StorageError, read_range, read_text
from driftloop_trainer.modelfiles import INDEX, SINGLE

_LENGTH = struct.Struct("<Q")  # https://huggingface.co/docs/safetensors: the header's length, the header, the tensors
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor in a file. `start`: byte position of its data."""

    name: str
    uri: str
    dtype: torch.dtype
    shape: torch.Size
    start: int

    def read(self) -> torch.Tensor:
        """The whole tensor. Raises StorageError."""
        return self._read(0, self.shape)

    def rows(self, first: int, count: int) -> torch.Tensor:
        """`count` entries of the first dimension from `first` on. Raises StorageError."""
        others = self.shape[1:]
        return self._read(first * math.prod(others), torch.Size((count, *others)))

    def _read(self, skipped: int, shape: torch.Size) -> torch.Tensor:
        """The elements after the first `skipped` ones, in `shape`."""
        start = self.start + skipped * self.dtype.itemsize
        content = read_range(self.uri, start, start + shape.numel() * self.dtype.itemsize)
        return torch.frombuffer(bytearray(content), dtype=self.dtype).reshape(shape)


def stored_tensors(uri: str) -> dict[str, StoredTensor]:
    """The tensors of the model folder at `uri` by their names in its files.

    Like transformers, it reads the files of the index, or model.safetensors if there is no index: a folder may have
    the same weights again under other names. Raises StorageError.
    """
    index = read_text(join(uri, INDEX))
    try:
        files = [SINGLE] if index is None else sorted(set(json.loads(index)["weight_map"].values()))
        return {name: tensor for file in files for name, tensor in _tensors_of(join(uri, file))}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, struct.error) as error:
        raise StorageError(f"{uri}: its safetensors files can't be read: {error!r}") from error


def _tensors_of(uri: str) -> Iterator[tuple[str, StoredTensor]]:
    (length,) = _LENGTH.unpack(read_range(uri, 0, _LENGTH.size))
    start = _LENGTH.size + length
    for name, fields in json.loads(read_range(uri, _LENGTH.size, start)).items():
        if name != "__metadata__":
            shape = torch.Size(fields["shape"])
            yield name, StoredTensor(name, uri, _DTYPES[fields["dtype"]], shape, start + fields["data_offsets"][0])


def stored_names(model: Any, stored: Mapping[str, StoredTensor]) -> dict[str, str] | None:
    """The names of a bare model's weights in its files, by their names in the model; tied weights have one name.

    None if transformers rearranges the weights. Raises StageFailure if one is missing, or has another shape.
    """
    transforms = get_model_conversion_mapping(model)
    renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
    converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
    expected, found = model.state_dict(), {}
    for name in stored:
        renamed, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, expected)
        if converter is not None:
            return None
        found[renamed] = name
    names, missing = {}, []
    for first, *others in tied_names(model):
        stored_as = next((found[name] for name in (first, *others) if name in found), None)
        if stored_as is None:
            missing.append(first)
        else:
            names[first] = stored_as
    if missing:
        raise StageFailure(
            StageReason.MODEL_NOT_FOUND,
            f"the weights lack {', '.join(missing[:5])}{', …' if missing[5:] else ''}, which config.json asks for",
        )
    for name, stored_as in names.items():
        if expected[name].shape != stored[stored_as].shape:
            raise StageFailure(
                StageReason.MODEL_NOT_FOUND,
                f"{stored_as} has the shape {list(stored[stored_as].shape)}, but config.json asks for "
                f"{list(expected[name].shape)}",
            )
    return names


def is_rearranged(model: Any) -> bool:
    """Whether transformers may rearrange the model's weights when it reads them, such as experts into one tensor."""
    return any(isinstance(transform, WeightConverter) for transform in get_model_conversion_mapping(model))


def meta_model(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a configuration, on the device where weights take no memory."""
    with loading(), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]


def check_weights(config: Any, uri: str) -> None:
    """Refuse a folder whose weights are not those of its configuration. Reads the headers of its files alone.

    Raises StageFailure and StorageError.
    """
    stored_names(meta_model(config), stored_tensors(uri))


def tied_names(model: nn.Module) -> list[list[str]]:
    """The names of each parameter and persistent buffer: several where it is tied."""
    names: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())

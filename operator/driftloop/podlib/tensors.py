"""The tensors in a model's safetensors files, of which parts are read: as they are stored, or with an adapter's change.

https://huggingface.co/docs/safetensors: a file is the header's length, the header, and the tensors.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from driftloop.contract.manifest import ManifestError
from driftloop.contract.modelfolder import ADAPTER_BASE, ADAPTER_WEIGHTS, INDEX, AdapterBase
from driftloop.contract.uris import join
from driftloop.podlib.adapters import read_base, weight_files
from driftloop.podlib.nf4 import rounded
from driftloop.podlib.storage import StorageError, read_range

_LENGTH = struct.Struct("<Q")
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_MERGED_TYPES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES.values() if dtype.is_floating_point}
_AT_A_TIME = 1 << 18  # elements that are merged and written at a time; it takes some 30 bytes for each


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

    def names(self) -> list[str]:
        """Its name in the files."""
        return [self.name]

    def divided(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """`weight` by its name in the files."""
        return {self.name: weight}

    def _read(self, skipped: int, shape: torch.Size) -> torch.Tensor:
        """The elements after the first `skipped` ones, in `shape`."""
        start = self.start + skipped * self.dtype.itemsize
        content = read_range(self.uri, start, start + shape.numel() * self.dtype.itemsize)
        return torch.frombuffer(bytearray(content), dtype=self.dtype).reshape(shape)


@dataclass(frozen=True, slots=True)
class Change:
    """What an adapter adds to a matrix: the product of two small ones in its file, in float32."""

    inner: StoredTensor  # (rank, inputs)
    outer: StoredTensor  # (outputs, rank)
    scaling: float
    transposed: bool  # the matrix is (inputs, outputs)

    def rows(self, first: int, count: int) -> torch.Tensor:
        """The rows that are added to those of the matrix. Raises StorageError."""
        if self.transposed:
            inputs = self.inner.read().float()[:, first : first + count]
            return (self.outer.read().float() @ inputs * self.scaling).T
        return self.outer.rows(first, count).float() @ self.inner.read().float() * self.scaling


@dataclass(frozen=True, slots=True)
class MergedTensor:
    """A tensor of a version that is an adapter alone: that of its base as the export of a merged version writes it."""

    base: "Tensor"
    dtype: torch.dtype
    in_4_bits: bool  # it is rounded first: the adapter was trained with it like that
    change: Change | None

    @property
    def name(self) -> str:
        """Its name in the base's files."""
        return self.base.name

    @property
    def shape(self) -> torch.Size:
        """That of the base's tensor."""
        return self.base.shape

    def read(self) -> torch.Tensor:
        """The whole tensor. Raises StorageError."""
        return self.rows(0, self.shape[0]) if self.shape else self.base.read().to(self.dtype)

    def rows(self, first: int, count: int) -> torch.Tensor:
        """`count` entries of the first dimension from `first` on. Raises StorageError."""
        part = self.base.rows(first, count)
        if self.in_4_bits:
            part = rounded(part)
        if self.change is not None:
            part = part.float() + self.change.rows(first, count)
        return part.to(self.dtype)

    def names(self) -> list[str]:
        """Its name in the base's files."""
        return [self.name]

    def divided(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """`weight` by its name in the base's files."""
        return {self.name: weight}


Tensor = StoredTensor | MergedTensor


class Rows(Protocol):
    """What can be written: some rows of it are read at a time."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> torch.Size: ...

    def read(self) -> torch.Tensor:
        """The whole tensor. Raises StorageError."""

    def rows(self, first: int, count: int) -> torch.Tensor:
        """`count` entries of the first dimension from `first` on. Raises StorageError."""


def model_tensors(uri: str, bases: Sequence[str] = ()) -> dict[str, Tensor]:
    """The tensors of the model at `uri`, by their names in its files or, if it is an adapter, in those of its base.

    `bases`: for an adapter the folder of its base, if that is an adapter too the folder of its base, and so on.
    Raises StorageError and ManifestError.
    """
    *adapters, whole = [uri, *bases]
    tensors: dict[str, Tensor] = dict(stored_tensors(whole))
    for adapter in reversed(adapters):
        tensors = with_adapter(tensors, adapter)
        if lacking := read_base(adapter).weights.keys() - tensors.keys():
            raise StorageError(f"{whole}: has no {sorted(lacking)[0]}, to which the adapter at {adapter} adds")
    return tensors


def with_adapter(tensors: Mapping[str, Tensor], uri: str) -> dict[str, Tensor]:
    """Tensors of the base of the adapter at `uri`, with its changes. Raises StorageError and ManifestError."""
    known, stored = read_base(uri), dict(tensors_of(join(uri, ADAPTER_WEIGHTS)))
    try:
        return {name: _merged(tensor, known, stored) for name, tensor in tensors.items()}
    except KeyError as error:
        raise ManifestError(f"{uri}: its {ADAPTER_BASE} names {error}, which the adapter does not have") from error


def as_trained_on(tensors: Mapping[str, Tensor], uri: str) -> dict[str, Tensor]:
    """Tensors of the base of the adapter at `uri`, as the adapter was trained on them: without its changes.

    Raises StorageError and ManifestError.
    """
    known = read_base(uri).model_copy(update={"weights": {}})
    return {name: _merged(tensor, known, {}) for name, tensor in tensors.items()}


def _merged(tensor: Tensor, known: AdapterBase, stored: Mapping[str, StoredTensor]) -> Tensor:
    adapted, in_4_bits = known.weights.get(tensor.name), tensor.name in known.in_4_bits
    dtype = _MERGED_TYPES[known.dtype] if tensor.dtype.is_floating_point else tensor.dtype
    if adapted is None:
        return MergedTensor(tensor, dtype, in_4_bits, None) if in_4_bits or dtype != tensor.dtype else tensor
    inner, outer = (stored[f"base_model.model.{adapted.module}.{matrix}.weight"] for matrix in ("lora_A", "lora_B"))
    return MergedTensor(tensor, dtype, in_4_bits, Change(inner, outer, known.scaling, adapted.transposed))


def stored_tensors(uri: str) -> dict[str, StoredTensor]:
    """The tensors of the whole model at `uri` by their names in its files.

    Like transformers, it reads the files of the index, or model.safetensors if there is no index: a folder may have
    the same weights again under other names. Raises StorageError.
    """
    files = [file for file in weight_files(uri) if file != INDEX]
    return {name: tensor for file in files for name, tensor in tensors_of(join(uri, file))}


def tensors_of(uri: str) -> Iterator[tuple[str, StoredTensor]]:
    """The tensors of one file by name, in their order in it. Raises StorageError."""
    try:
        (length,) = _LENGTH.unpack(read_range(uri, 0, _LENGTH.size))
        start = _LENGTH.size + length
        fields = json.loads(read_range(uri, _LENGTH.size, start))
        fields.pop("__metadata__", None)
        for name, field in sorted(fields.items(), key=lambda item: item[1]["data_offsets"][0]):
            shape = torch.Size(field["shape"])
            yield name, StoredTensor(name, uri, _DTYPES[field["dtype"]], shape, start + field["data_offsets"][0])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, struct.error) as error:
        raise StorageError(f"{uri}: this safetensors file can't be read: {error!r}") from error


def write_tensors(tensors: Mapping[str, Rows], path: Path) -> None:
    """Write a safetensors file. Of a tensor some rows are in memory at a time, however large it is.

    Raises StorageError.
    """
    fields: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        begin, end = end, end + tensor.shape.numel() * tensor.dtype.itemsize
        fields[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    header = json.dumps(fields).encode()
    header += b" " * (-len(header) % 8)  # as the tensors should begin at a multiple of 8
    with path.open("wb") as file:
        file.write(_LENGTH.pack(len(header)) + header)
        for tensor in tensors.values():
            for part in _parts(tensor):
                file.write(part.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _parts(tensor: Rows) -> Iterator[torch.Tensor]:
    if not tensor.shape:
        yield tensor.read()
        return
    at_once = max(1, _AT_A_TIME // max(1, math.prod(tensor.shape[1:])))
    for first in range(0, tensor.shape[0], at_once):
        yield tensor.rows(first, min(at_once, tensor.shape[0] - first))

"""Adapters on one another as a single adapter on the whole model below them, for an engine that adds it by itself.

The sum of the products of small matrices is one product: of the inner matrices upon one another and the outer ones side
by side. Its rank is the sum of their ranks.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from driftloop.contract.manifest import ManifestError
from driftloop.contract.modelfolder import ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS
from driftloop.contract.uris import join
from driftloop.podlib.adapters import read_base
from driftloop.podlib.tensors import StoredTensor, tensors_of, write_tensors

_INNER, _OUTER = "base_model.model.{}.lora_A.weight", "base_model.model.{}.lora_B.weight"


@dataclass(frozen=True)
class Adapter:
    """An adapter's matrices by the modules of the model that it changes: inner and outer."""

    matrices: dict[str, tuple[StoredTensor, StoredTensor]]
    scaling: float  # of their products

    @property
    def rank(self) -> int:
        """The largest rank of its products."""
        return max((inner.shape[0] for inner, _ in self.matrices.values()), default=0)


@dataclass(frozen=True)
class Inner:
    """Inner matrices upon one another, and below them rows of zeros up to the rank."""

    parts: Sequence[StoredTensor]
    rank: int
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        """(rank, inputs)."""
        return torch.Size((self.rank, self.parts[0].shape[1]))

    def read(self) -> torch.Tensor:
        """The whole matrix. Raises StorageError."""
        rows = [part.read().float() for part in self.parts]
        return torch.cat([*rows, torch.zeros(self.rank - sum(len(part) for part in rows), self.shape[1])])

    def rows(self, first: int, count: int) -> torch.Tensor:
        """`count` rows from `first` on. Raises StorageError."""
        return self.read()[first : first + count]


@dataclass(frozen=True)
class Outer:
    """Outer matrices side by side, each times the scaling of its product, and columns of zeros up to the rank."""

    parts: Sequence[tuple[StoredTensor, float]]
    rank: int
    dtype: torch.dtype = torch.float32

    @property
    def shape(self) -> torch.Size:
        """(outputs, rank)."""
        return torch.Size((self.parts[0][0].shape[0], self.rank))

    def read(self) -> torch.Tensor:
        """The whole matrix. Raises StorageError."""
        return self.rows(0, self.shape[0])

    def rows(self, first: int, count: int) -> torch.Tensor:
        """`count` rows from `first` on. Raises StorageError."""
        columns = [part.rows(first, count).float() * scaling for part, scaling in self.parts]
        return torch.cat([*columns, torch.zeros(count, self.rank - sum(part.shape[1] for part in columns))], dim=1)


def read_adapter(uri: str) -> Adapter:
    """The adapter at `uri`. Raises StorageError and ManifestError."""
    known, stored = read_base(uri), dict(tensors_of(join(uri, ADAPTER_WEIGHTS)))
    modules = [weight.module for weight in known.weights.values()]
    try:
        matrices = {module: (stored[_INNER.format(module)], stored[_OUTER.format(module)]) for module in modules}
    except KeyError as error:
        raise ManifestError(f"{uri}: its {ADAPTER_BASE} names {error}, which the adapter does not have") from error
    return Adapter(matrices, known.scaling)


def stack(adapters: Sequence[Adapter], config: Path, folder: Path) -> None:
    """Write them as a single adapter into `folder`. `config`: PEFT's configuration of the last one.

    Of a matrix some rows are in memory at a time, or a whole inner one. Raises StorageError.
    """
    rank = sum(adapter.rank for adapter in adapters)
    stacked: dict[str, Inner | Outer] = {}
    modules = sorted({module for adapter in adapters for module in adapter.matrices})
    for module in modules:
        those = [(adapter.matrices[module], adapter.scaling) for adapter in adapters if module in adapter.matrices]
        stacked[_INNER.format(module)] = Inner([inner for (inner, _), _ in those], rank)
        stacked[_OUTER.format(module)] = Outer([(outer, scaling) for (_, outer), scaling in those], rank)
    write_tensors(stacked, folder / ADAPTER_WEIGHTS)
    # The scalings are in the matrices already: PEFT's is alpha / r.
    known = json.loads(config.read_bytes())
    changed = known | {"r": rank, "lora_alpha": rank, "use_rslora": False, "target_modules": modules}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(changed, indent=2) + "\n")

"""Read parts of safetensors files in storage: a process reads only the slices that it keeps."""

from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from driftloop_trainer.weights import Stored


class WeightsReader(FileSystemReader):
    """Lets torch.distributed.checkpoint read `tensors` into the shards of any mesh.

    torch's HuggingFaceStorageReader only opens mounted files (not reported). This one also reads from a bucket.
    """

    def __init__(self, tensors: dict[str, Stored]) -> None:
        super().__init__(path="")
        self._tensors = tensors

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        """Describe the tensors, each as one chunk."""
        descriptions = {name: _description(tensor) for name, tensor in self._tensors.items()}
        places = {MetadataIndex(name, [0] * len(t.shape)): t for name, t in self._tensors.items()}
        metadata = Metadata(state_dict_metadata=dict(descriptions), storage_data=places)
        metadata.storage_meta = StorageMeta()
        return metadata

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the slices of the plan into this process's tensors."""
        for item in plan.items:
            self._read(item, planner)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _read(self, item: ReadItem, planner: LoadPlanner) -> None:
        tensor = self._tensors[item.storage_index.fqn]
        target = planner.resolve_tensor(item).detach()
        if target.ndim == 0:
            target.copy_(tensor.read())
        elif target.numel():
            (first, *offsets), (count, *lengths) = item.storage_offsets, item.lengths
            others = tuple(slice(at, at + length) for at, length in zip(offsets, lengths, strict=True))
            target.copy_(tensor.rows(first, count)[(slice(None), *others)])
        planner.commit_tensor(item, target)


def _description(tensor: Stored) -> TensorStorageMetadata:
    whole = ChunkStorageMetadata(offsets=torch.Size([0] * len(tensor.shape)), sizes=tensor.shape)
    return TensorStorageMetadata(TensorProperties(dtype=tensor.dtype), tensor.shape, [whole])

"""Packed documents give the loss and the gradient of the documents alone, for every type of which that is claimed."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from driftloop_trainer.dataset import FILE, IGNORED, Dataset, Tokens, write_dataset
from driftloop_trainer.models import DOCUMENT_TYPES, MASKED_TYPES, PACKING_TYPES, config_for
from driftloop_trainer.train.worker import attention
from driftloop_trainer.train.worker.attention import attend_by_document, attends_by_document, fits_varlen
from driftloop_trainer.train.worker.batches import Documents, collate
from driftloop_trainer.train.worker.loss import loss_sum
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.sharding import shard
from unit.trainer.test_models import GROUPED, MIXTURE, NAMED, SIZES

PACKS = [[7, 9, 1], [12, 2]]  # tokens of the documents in two packed sequences: the second one is padded
WINDOW = 4
LAYERS = ["sliding_attention", "full_attention"]
WINDOWED = {"sliding_window": WINDOW, "use_sliding_window": True, "max_window_layers": 1, "layer_types": LAYERS}
WITHOUT_WINDOWS = ("iquestcoder",)  # whose configuration refuses them
NO_DROPOUT = dict.fromkeys(
    ("attention_dropout", "attn_pdrop", "resid_pdrop", "embd_pdrop", "hidden_dropout", "residual_dropout"), 0.0
)


def model_of(model_type: str, **fields: Any) -> Any:
    torch.manual_seed(0)
    sizes = SIZES | GROUPED | MIXTURE | NAMED.get(model_type, {}) | NO_DROPOUT
    config = config_for(sizes | fields | {"model_type": model_type})
    return AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]


def dataset(folder: Path, packs: list[list[int]]) -> Dataset:
    """Packed sequences of random tokens. The first token of each document does not count."""
    folder.mkdir()
    random = torch.Generator().manual_seed(1)
    documents = [[torch.randint(3, 60, (size,), generator=random).tolist() for size in pack] for pack in packs]
    ids = [list(chain(*pack)) for pack in documents]
    labels = [list(chain(*([IGNORED, *document[1:]] for document in pack))) for pack in documents]
    write_dataset(folder, ids, labels, packs)
    return Dataset(folder / FILE)


def alone(data: Dataset, folder: Path) -> Dataset:
    """The same documents, each in a sequence of its own."""
    folder.mkdir()
    ids, labels = (
        [part.tolist() for index in range(len(data)) for part in parts(tokens(index), data.segments(index))]
        for tokens in (data.ids, data.labels)
    )
    write_dataset(folder, ids, labels, [[len(row)] for row in ids])
    return Dataset(folder / FILE)


def parts(tokens: Tokens, lengths: Tokens) -> list[Tokens]:
    return np.split(tokens, np.cumsum(lengths)[:-1])


def loss_and_gradient(model: Any, data: Dataset, together: bool) -> tuple[float, dict[str, torch.Tensor]]:
    """Of all sequences, in one batch or one by one."""
    model.zero_grad()
    batches = [list(range(len(data)))] if together else [[index] for index in range(len(data))]
    total = 0.0
    for indices in batches:
        loss = loss_sum(model, collate(data, indices, pad_id=0))
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def differing(model: Any, folder: Path) -> float:
    """The largest relative difference between loss and gradients of packed documents and of documents alone."""
    packed = dataset(folder / "packed", PACKS)
    value, gradients = loss_and_gradient(model, alone(packed, folder / "alone"), together=False)
    attend_by_document(model)
    assert attends_by_document(model)
    other, others = loss_and_gradient(model, packed, together=True)
    assert gradients.keys() == others.keys()
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    return max(
        abs(value - other) / abs(value),
        *(float((gradients[name] - others[name]).abs().max()) / largest for name in gradients),
    )


@pytest.mark.parametrize("model_type", sorted(DOCUMENT_TYPES))
def test_packed_documents_have_the_loss_and_gradient_of_documents_alone(model_type: str, tmp_path: Path) -> None:
    """With windows where the type has them. The layers are computed again in the backward pass."""
    model = model_of(model_type, **({} if model_type in WITHOUT_WINDOWS else WINDOWED)).train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert differing(model, tmp_path) < 1e-5


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "qwen3"])
def test_they_have_it_without_windows_and_checkpointing(model_type: str, tmp_path: Path) -> None:
    assert differing(model_of(model_type), tmp_path) < 1e-5


@pytest.mark.parametrize("model_type", ["gemma2", "qwen2_moe"])
def test_the_check_finds_types_that_would_differ(
    model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "DOCUMENT_TYPES", {model_type})
    assert differing(model_of(model_type, attn_logit_softcapping=1.0, **WINDOWED), tmp_path) > 1e-3


@pytest.mark.parametrize("model_type", sorted(MASKED_TYPES))
def test_other_types_keep_transformers_mask(model_type: str, tmp_path: Path) -> None:
    assert model_type in PACKING_TYPES
    model = model_of(model_type)
    attend_by_document(model)
    assert not attends_by_document(model)
    loss_and_gradient(model, dataset(tmp_path / "packed", PACKS), together=True)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Remembers the number of elements of the largest tensor that an operation returned."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("fields", [{}, WINDOWED], ids=["", "windows"])
def test_no_tensor_has_an_element_for_each_pair_of_tokens(fields: dict[str, Any], tmp_path: Path) -> None:
    data, model = dataset(tmp_path / "packed", [[8] * 64]), model_of("mistral", **fields)
    attend_by_document(model)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        loss_and_gradient(model, data, together=True)
    assert largest.elements < 512 * 512 / 4


def attended_densely(states: list[torch.Tensor], lengths: list[int], window: int | None) -> torch.Tensor:
    """The oracle: scores of all pairs of tokens, most of them masked."""
    query, key, value = (state.transpose(1, 2).flatten(0, 1).transpose(0, 1) for state in states)
    key, value = (state.repeat_interleave(len(query) // len(key), 0) for state in (key, value))
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    place = torch.arange(len(document))
    behind = place[:, None] - place
    seen = (document[:, None] == document) & (behind >= 0) & (behind < (window or len(document)))
    scores = (query @ key.transpose(1, 2) * 0.3).masked_fill(~seen, float("-inf"))
    return (scores.softmax(-1) @ value).transpose(0, 1)


@settings(deadline=None, max_examples=60)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6),
    window=st.none() | st.integers(1, 13),
    block=st.integers(1, 6),
    groups=st.sampled_from([1, 2, 4]),
)
def test_each_token_sees_the_window_before_it_in_its_own_document(
    lengths: list[int], window: int | None, block: int, groups: int
) -> None:
    tokens, random = sum(lengths), torch.Generator().manual_seed(0)
    query, key, value = [
        torch.randn(1, heads, tokens, 8, dtype=torch.float64, generator=random)
        for heads in (4, 4 // groups, 4 // groups)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "BLOCK", block)
        attended, _ = attention.attention(
            torch.nn.Module(),
            query,
            key,
            value,
            None,
            documents=Documents.of(lengths),
            scaling=0.3,
            sliding_window=window,
        )
    torch.testing.assert_close(attended[0], attended_densely([query, key, value], lengths, window))


@pytest.mark.parametrize(
    ("capability", "dtype", "size", "dropout", "fits"),
    [
        ((9, 0), torch.bfloat16, 128, 0.0, True),
        ((8, 0), torch.float16, 256, 0.0, True),
        (None, torch.bfloat16, 128, 0.0, False),  # the CPU
        ((7, 5), torch.float16, 128, 0.0, False),
        ((9, 0), torch.float32, 128, 0.0, False),
        ((9, 0), torch.bfloat16, 320, 0.0, False),
        ((9, 0), torch.bfloat16, 100, 0.0, False),
        ((9, 0), torch.bfloat16, 128, 0.1, False),
    ],
)
def test_torchs_kernel_for_many_lengths_is_used_where_it_fits(
    capability: tuple[int, int] | None, dtype: torch.dtype, size: int, dropout: float, fits: bool
) -> None:
    assert fits_varlen(capability, dtype, size, dropout) == fits


def test_documents_reach_layers_that_are_sharded_and_compute_in_half_precision(tmp_path: Path) -> None:
    """FSDP2 casts what such a layer is called with."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = shard(model_of("llama").to(torch.float32), Mesh.of("cpu"), bf16=True, gradient_checkpointing=True)
        assert differing(model.train(), tmp_path) < 0.02
    finally:
        dist.destroy_process_group()

"""The cache of keys and values of rows that are generated together, allocated once and written in place."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

Owner = TypeVar("Owner")

FLOOR = 512  # tokens: rows up to this length share one class, however short they are
SLACK = 1.25  # columns of a block, relative to the class's length: the window has to move back only now and then
ROW_STEP = 4  # a block grows by a multiple of this many rows


def size_class(length: int) -> int:
    """The class of a row. Only rows of the same class share a step; class k holds up to FLOOR * 2^k tokens."""
    return max(0, (length - 1).bit_length() - (FLOOR - 1).bit_length())


def longest_of(kind: int) -> int:
    """Maximal tokens of a row of this class."""
    return FLOOR << kind


def cells_for(length: int) -> int:
    """Cells (one token each) of memory that a row of `length` tokens takes."""
    return int(longest_of(size_class(length)) * SLACK)


class Forward:
    """A causal language model as a function of token ids, their positions, and a cache."""

    def __init__(self, model: Any) -> None:
        self.device = model.device
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any, whole: bool = False) -> Tensor:
        """The logits [rows, vocabulary] after the last column of `ids` [rows, columns].

        `mask` [rows, cached and new columns] is 1 where there is a token, 0 for padding. If `whole`, the logits after
        each column, [rows, columns, vocabulary].
        """
        extra: dict[str, Any] = {"position_ids": positions} if self._takes_positions else {}
        extra |= {} if whole else self._last_only
        output = self._model(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra)
        logits: Tensor = output.logits if whole else output.logits[:, -1]
        return logits

    def wait(self) -> None:
        """Wait until the GPU has finished."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def give_back(self) -> None:
        """Return unused memory to the GPU."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Block(Generic[Owner]):
    """Rows of similar length, left-padded to one window of columns. Each row has an owner.

    Every layer keeps every position, also in models with sliding-window attention (the model's mask handles that).
    Memory has more columns than the window, so a step writes one column and copies nothing.
    """

    def __init__(self, forward: Forward, owners: Sequence[Owner], columns: int) -> None:
        self.owners = list(owners)
        self.lengths = [0] * len(self.owners)  # tokens of each row
        self.sound = True  # False: a change failed halfway, so the content of the rows is invalid
        self.spent: float | None = None  # see turns.py
        self._forward = forward
        self._cache: Any = Cache(layer_class_to_replicate=partial(_Layer, self))  # type: ignore[arg-type]
        self._columns = columns
        self._rows = len(self.owners)  # rows that memory is allocated for
        self._end = 0  # end of the window: each row's last token is in the column before it
        self._view = (slice(0, 0), 0)  # the rows and the first column that the current forward pass uses

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def bytes(self) -> int:
        """Bytes of memory allocated so far."""
        return sum(states.nbytes for layer in self._cache.layers for states in (layer.keys, layer.values))

    @torch.inference_mode()
    def append(self, tokens: Sequence[Sequence[int]], rows: slice = slice(None), whole: bool = False) -> Tensor:
        """Run the model on new tokens of `rows` and return the logits [rows, vocabulary]. `commit` keeps the tokens.

        If `whole`, the logits after each new token, [rows, tokens, vocabulary]. Rows may get different numbers of
        tokens the first time only. If this raises, nothing has changed.
        """
        lengths = self.lengths[rows]
        new, width = max(map(len, tokens)), max(lengths)
        self._make_room(new)
        at = rows.indices(len(self))
        self._view = (slice(at[0], at[1]), self._end - width)
        device = self._forward.device
        ids = torch.tensor([[0] * (new - len(row)) + list(row) for row in tokens], device=device)
        ends = torch.tensor([n + len(row) for n, row in zip(lengths, tokens, strict=True)], device=device)[:, None]
        mask = (torch.arange(width + new, device=device) >= width + new - ends).long()
        positions = (torch.arange(new, device=device) + ends - new).clamp(min=0)
        return self._forward(ids, mask, positions, self._cache, whole)

    def commit(self, tokens: Sequence[int]) -> None:
        """Keep what was appended: `tokens` new ones per row, and as many columns as the largest of them."""
        self._end += max(tokens)
        self.lengths = [length + new for length, new in zip(self.lengths, tokens, strict=True)]

    @torch.inference_mode()
    def take(self, other: "Block[Owner]", row: int) -> None:
        """Copy a row of another block to the end of this one."""
        length = other.lengths[row]
        self._arrange(len(self) + 1, max(self._end, length))
        begin, start, n = self._end - length, self._end - max(self.lengths, default=0), len(self)
        with self._changing():
            for index, theirs in enumerate(other._cache.layers):
                mine = self._layer(index, theirs)
                for name in ("keys", "values"):
                    states, source = getattr(mine, name), getattr(theirs, name)
                    # Masked cells are still read, and NaN times a weight of 0 is NaN, so padding must not be NaN.
                    states[:n, :, min(begin, start) : start] = 0
                    states[n, :, :begin] = 0
                    states[n, :, begin : self._end] = source[row, :, other._end - length : other._end]
        self.owners.append(other.owners[row])
        self.lengths.append(length)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Drop a row. The last row moves to its place."""
        last = len(self) - 1
        if row != last:
            for layer in self._cache.layers:
                for states in (layer.keys, layer.values):
                    states[row, :, : self._end] = states[last, :, : self._end]
            self.owners[row], self.lengths[row] = self.owners[last], self.lengths[last]
        self.owners.pop()
        self.lengths.pop()

    def write(self, layer: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write a layer's new states into the window and return the whole window. The model's layers call this."""
        rows, start = self._view
        end = self._end + keys.shape[-2]
        if not layer.is_initialized:
            layer.allocate(self._rows, self._columns, keys, values)
        layer.keys[rows, :, self._end : end] = keys
        layer.values[rows, :, self._end : end] = values
        return layer.keys[rows, :, start:end], layer.values[rows, :, start:end]

    @property
    def window(self) -> int:
        """Columns in the cache of the rows that the current forward pass uses."""
        return self._end - self._view[1]

    def _make_room(self, new: int) -> None:
        if self._end + new <= self._columns:
            return
        width = max(self.lengths)
        if width + new > self._columns:
            self._columns = cells_for(width + new)
        self._arrange(self._rows, width)

    def _arrange(self, rows: int, end: int) -> None:
        """Allocate memory for `rows` rows and `_columns` columns if needed, and move the window to end at `end`."""
        if rows > self._rows:
            self._rows = -(-rows // ROW_STEP) * ROW_STEP
        width, n = max(self.lengths, default=0), len(self)
        with self._changing():
            for layer in self._cache.layers:
                keys, values = layer.keys, layer.values
                grows = keys.shape[0] < self._rows or keys.shape[2] < self._columns
                if grows:
                    layer.allocate(self._rows, self._columns, keys, values)
                for old, states in ((keys, layer.keys), (values, layer.values)):
                    if grows or end != self._end:
                        window = old[:n, :, self._end - width : self._end]
                        states[:n, :, end - width : end] = window if grows else window.clone()
        self._end = end

    @contextmanager
    def _changing(self) -> Iterator[None]:
        self.sound = False
        yield
        self.sound = True

    def _layer(self, index: int, like: Any) -> Any:
        if index == len(self._cache.layers):
            self._cache.layers.append(_Layer(self))
            self._cache.layers[index].allocate(self._rows, self._columns, like.keys, like.values)
        return self._cache.layers[index]


class _Layer(DynamicLayer):  # type: ignore[no-untyped-call]
    """One layer's keys and values in a block, each [rows, heads, columns, head size]."""

    def __init__(self, block: Block[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._block = block

    def allocate(self, rows: int, columns: int, keys: Tensor, values: Tensor) -> None:
        """Allocate memory with the shape and type of these states."""
        self.keys = keys.new_zeros((rows, keys.shape[1], columns, keys.shape[3]))
        self.values = values.new_zeros((rows, values.shape[1], columns, values.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._block.write(self, key_states, value_states)

    def get_seq_length(self) -> int:
        return self._block.window if self.is_initialized else 0

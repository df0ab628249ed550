"""Keys and values of rows that are generated together, in memory that is taken once and written in place."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicLayer

Owner = TypeVar("Owner")

FLOOR = 512  # tokens: rows up to this length are stepped together, however short they are
SLACK = 1.25  # columns of a block by its class's length: the window moves back once in a quarter of it
ROW_STEP = 4  # rows by which a block grows


def size_class(length: int) -> int:
    """Rows are stepped with those of their class alone: class k holds up to FLOOR * 2^k tokens."""
    return max(0, (length - 1).bit_length() - (FLOOR - 1).bit_length())


def longest_of(kind: int) -> int:
    """Tokens that a row of this class holds at most."""
    return FLOOR << kind


def cells_for(length: int) -> int:
    """Cells (tokens) of memory that a row of `length` tokens takes."""
    return int(longest_of(size_class(length)) * SLACK)


class Forward:
    """A causal language model as a function of tokens, where they stand, and a cache."""

    def __init__(self, model: Any) -> None:
        self.device = model.device
        self._model = model
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """The logits after the last column of `ids` [rows, columns], [rows, vocabulary].

        `mask` [rows, cached and new columns] is 1 where there is a token.
        """
        extra = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra, **self._last_only
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def wait(self) -> None:
        """Until what was asked of a GPU is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def give_back(self) -> None:
        """Memory that nothing uses any more goes back to the GPU."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class Block(Generic[Owner]):
    """Rows of similar length, left-padded to one window of columns, with an owner each.

    Every layer keeps every position, also where the model attends to a window only (the model's mask sees to that).
    The window lies in more columns than it needs: a step writes one column and copies nothing.
    """

    def __init__(self, forward: Forward, owners: Sequence[Owner], columns: int) -> None:
        self.owners = list(owners)
        self.lengths = [0] * len(self.owners)  # tokens of each row
        self.sound = True  # False: a change was broken off, and what the rows hold is nobody's
        self.spent: float | None = None  # see turns.py
        self._forward = forward
        self._cache: Any = Cache(layer_class_to_replicate=partial(_Layer, self))  # type: ignore[arg-type]
        self._columns = columns
        self._rows = len(self.owners)  # that memory is taken for
        self._end = 0  # of the window: each row's last token is in the column before
        self._view = (slice(0, 0), 0)  # what is read and written now: rows, and the first column

    def __len__(self) -> int:
        return len(self.owners)

    @property
    def bytes(self) -> int:
        """Of the memory taken so far."""
        return sum(states.nbytes for layer in self._cache.layers for states in (layer.keys, layer.values))

    @torch.inference_mode()
    def append(self, tokens: Sequence[Sequence[int]], rows: slice = slice(None)) -> Tensor:
        """The logits after these tokens for these rows, [rows, vocabulary]. They stay once `commit` is called.

        The first tokens may be of different number, later ones not. Nothing has changed when this raises.
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
        return self._forward(ids, mask, positions, self._cache)

    def commit(self, tokens: Sequence[int]) -> None:
        """Keep what was appended: so many tokens to each row, as many as the longest in columns."""
        self._end += max(tokens)
        self.lengths = [length + new for length, new in zip(self.lengths, tokens, strict=True)]

    @torch.inference_mode()
    def take(self, other: "Block[Owner]", row: int) -> None:
        """Copy a row of another block below these."""
        length = other.lengths[row]
        self._arrange(len(self) + 1, max(self._end, length))
        begin, start, n = self._end - length, self._end - max(self.lengths, default=0), len(self)
        with self._changing():
            for index, theirs in enumerate(other._cache.layers):
                mine = self._layer(index, theirs)
                for name in ("keys", "values"):
                    states, source = getattr(mine, name), getattr(theirs, name)
                    # Masked is not unread: a NaN times a weight of 0 is a NaN, so padding must be numbers.
                    states[:n, :, min(begin, start) : start] = 0
                    states[n, :, :begin] = 0
                    states[n, :, begin : self._end] = source[row, :, other._end - length : other._end]
        self.owners.append(other.owners[row])
        self.lengths.append(length)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Drop a row. The last one takes its place."""
        last = len(self) - 1
        if row != last:
            for layer in self._cache.layers:
                for states in (layer.keys, layer.values):
                    states[row, :, : self._end] = states[last, :, : self._end]
            self.owners[row], self.lengths[row] = self.owners[last], self.lengths[last]
        self.owners.pop()
        self.lengths.pop()

    def write(self, layer: Any, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Called by the model's layers: put the new states into the window. Returns all of it."""
        rows, start = self._view
        end = self._end + keys.shape[-2]
        if not layer.is_initialized:
            layer.allocate(self._rows, self._columns, keys, values)
        layer.keys[rows, :, self._end : end] = keys
        layer.values[rows, :, self._end : end] = values
        return layer.keys[rows, :, start:end], layer.values[rows, :, start:end]

    @property
    def window(self) -> int:
        """Columns that the rows in view have in the cache."""
        return self._end - self._view[1]

    def _make_room(self, new: int) -> None:
        if self._end + new <= self._columns:
            return
        width = max(self.lengths)
        if width + new > self._columns:
            self._columns = cells_for(width + new)
        self._arrange(self._rows, width)

    def _arrange(self, rows: int, end: int) -> None:
        """Have memory for so many rows and for `_columns`, and the window end in this column."""
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
    """A layer's part of a block: [rows, heads, columns, head size] of keys and of values."""

    def __init__(self, block: Block[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._block = block

    def allocate(self, rows: int, columns: int, keys: Tensor, values: Tensor) -> None:
        """Take memory, for states of the kind of these."""
        self.keys = keys.new_zeros((rows, keys.shape[1], columns, keys.shape[3]))
        self.values = values.new_zeros((rows, values.shape[1], columns, values.shape[3]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        return self._block.write(self, key_states, value_states)

    def get_seq_length(self) -> int:
        return self._block.window if self.is_initialized else 0

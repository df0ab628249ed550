"""The rows that are generated together, and their key-value cache."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

PREFILL_TOKENS = 8192  # cells (rows by longest prompt) of one prefill: running requests wait for it


class Batch:
    """Rows of different length, left-padded to one. Rows join after a prefill of their own and leave at any step.

    The cache keeps every position in layers of one kind, also where the model attends to a window only (the model's
    mask sees to that): a window would be another length in every row.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None  # DynamicCache; keys and values are [rows, heads, length, head size]
        self._mask: Tensor = torch.zeros((0, 0), dtype=torch.long, device=model.device)  # [rows, length], 1: a token
        accepted = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in accepted
        self._last_only = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    def __len__(self) -> int:
        return self._mask.shape[0]

    @property
    def tokens(self) -> int:
        """Tokens in the cache, padding aside."""
        return int(self._mask.sum())

    @torch.inference_mode()
    def join(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Add a row for each prompt, below the others. Returns the logits after it, [prompts, vocabulary].

        Nothing has changed when this raises.
        """
        longest = max(len(prompt) for prompt in prompts)
        device = self._mask.device
        ids = torch.tensor([[0] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
        cache = DynamicCache()
        logits = self._forward(ids, mask, (mask.cumsum(-1) - 1).clamp(min=0), cache)
        if len(self):
            self._merge(cache, mask)
        else:
            self._cache, self._mask = cache, mask
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append one token to each row. Returns the logits after it, [rows, vocabulary]."""
        positions = self._mask.sum(-1, keepdim=True)
        self._mask = pad(self._mask, (0, 1), value=1)
        ids = torch.tensor(tokens, device=self._mask.device)[:, None]
        return self._forward(ids, self._mask, positions, self._cache)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these, and the columns that only dropped rows needed."""
        if not rows:
            self.clear()
            return
        self._mask = self._mask[list(rows)]
        start = self._mask.shape[1] - int(self._mask.sum(-1).max())
        self._mask = self._mask[:, start:]
        for layer in self._cache.layers:
            layer.keys = layer.keys[list(rows), :, start:]
            layer.values = layer.values[list(rows), :, start:]

    def clear(self) -> None:
        """Drop every row."""
        self._cache, self._mask = None, self._mask[:0, :0]

    @torch.inference_mode()
    def probe(self) -> None:
        """Raises when the model can't take one token, whatever is in the batch."""
        one = torch.ones((1, 1), dtype=torch.long, device=self._mask.device)
        logits = self._forward(one, one, one - 1, DynamicCache())
        if logits.isnan().any():
            raise ValueError("the model's output is not a number: its weights are broken")

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> Tensor:
        extra = {"position_ids": positions} if self._takes_positions else {}
        output = self._model(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **extra, **self._last_only
        )
        logits: Tensor = output.logits[:, -1]
        return logits

    def _merge(self, cache: Any, mask: Tensor) -> None:
        length = max(self._mask.shape[1], mask.shape[1])

        def grow(states: Tensor) -> Tensor:
            return pad(states, (0, 0, length - states.shape[-2], 0))

        merged = [
            (torch.cat([grow(old.keys), grow(new.keys)]), torch.cat([grow(old.values), grow(new.values)]))
            for old, new in zip(self._cache.layers, cache.layers, strict=True)
        ]
        for layer, (keys, values) in zip(self._cache.layers, merged, strict=True):
            layer.keys, layer.values = keys, values
        self._mask = torch.cat([pad(m, (length - m.shape[1], 0)) for m in (self._mask, mask)])

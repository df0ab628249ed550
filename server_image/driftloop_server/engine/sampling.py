"""Samples the next token of each request in a batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """How one request samples. temperature 0: always the likeliest token. top_k 0: no limit."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """Log-probability of the chosen token at temperature 1, and of the likeliest tokens, the likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def choose(logits: Tensor, samplings: Sequence[Sampling], uniform: Sequence[float]) -> list[int | None]:
    """One token per row of `logits` [rows, vocabulary]; None for a row with NaN.

    `uniform` has one random number per row, from the request's own generator, so that a seed gives the same tokens
    whichever requests share the batch.
    """
    best = logits.max(dim=-1)
    tokens = best.indices.tolist()
    rows = [i for i, sampling in enumerate(samplings) if sampling.temperature > 0]
    if rows:
        sampled = _sample(logits[rows].float(), [samplings[i] for i in rows], [uniform[i] for i in rows])
        for row, token in zip(rows, sampled, strict=True):
            tokens[row] = token
    broken = best.values.isnan().tolist()
    return [None if bad else token for token, bad in zip(tokens, broken, strict=True)]


def logprobs(logits: Tensor, rows: Sequence[int], tokens: Sequence[int], top: int) -> list[TokenLogprob]:
    """Log-probabilities of the chosen `tokens` of `rows`, and of the `top` likeliest tokens."""
    table = logits[list(rows)].float().log_softmax(dim=-1)
    chosen = table.gather(1, torch.tensor(tokens, device=table.device)[:, None])[:, 0].tolist()
    best = table.topk(max(top, 1), dim=-1)
    return [
        TokenLogprob(token, logprob, tuple(zip(ids, values, strict=True))[:top])
        for token, logprob, ids, values in zip(tokens, chosen, best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _sample(logits: Tensor, samplings: Sequence[Sampling], uniform: Sequence[float]) -> list[int]:
    def column(values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=logits.dtype, device=logits.device)[:, None]

    vocabulary = logits.shape[-1]
    scaled = logits / column([sampling.temperature for sampling in samplings])
    masses, order = scaled.softmax(dim=-1).sort(dim=-1, descending=True)
    likelier = masses.cumsum(dim=-1) - masses  # total mass of the likelier tokens; 0 for the first, so one is kept
    rank = torch.arange(vocabulary, device=logits.device)
    kept = (likelier < column([sampling.top_p for sampling in samplings])) & (
        rank < column([min(sampling.top_k or vocabulary, vocabulary) for sampling in samplings])
    )
    masses = masses * kept
    total = masses.cumsum(dim=-1)
    at = torch.searchsorted(total, column(uniform) * total[:, -1:], right=True)
    # Rounding may point past the last kept token; a row of NaN has none.
    at = at.minimum(kept.sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    return [int(token) for token in order.gather(1, at)[:, 0].tolist()]

"""The requests that the model works on: rows that generate, grouped by length, and prompts that are being read."""

from collections.abc import Sequence
from typing import Any, Generic

import torch
from torch import Tensor

from driftloop_server.engine.cache import Block, Forward, Owner, cells_for, longest_of, size_class
from driftloop_server.engine.sampling import TokenLogprob, logprobs


class Prefill(Generic[Owner]):
    """Prompts that are being read: several short ones at once, or a long one in pieces.

    `scored` None: only the logits after the prompts are computed. Else the log-probabilities of the tokens of a single
    prompt are, too, in pieces of at most `scored` tokens, as the logits of each token take memory.
    """

    def __init__(
        self,
        forward: Forward,
        owners: Sequence[Owner],
        prompts: Sequence[Sequence[int]],
        scored: int | None = None,
    ) -> None:
        self.prompts = list(prompts)
        self.scores: list[TokenLogprob] = []  # of all tokens but the first, as far as they are read
        self._scored = scored
        self.longest = max(map(len, prompts))
        alone = len(prompts) == 1
        # A single row is read into memory where it can stay; several rows are copied to their places afterwards.
        self.block = Block(forward, owners, cells_for(self.longest + 1) if alone else self.longest)
        self._done = 0

    @property
    def owners(self) -> list[Owner]:
        return self.block.owners

    def __len__(self) -> int:
        return len(self.block)

    @property
    def remaining(self) -> int:
        """Cells (rows times the longest prompt) still to be read."""
        return len(self) * (self.longest - self._done)

    def advance(self, tokens: int) -> Tensor | None:
        """Read up to `tokens` tokens of a single prompt, or several prompts whole.

        Returns the logits [prompts, vocabulary] once everything is read.
        """
        pieces = self.prompts
        if len(pieces) == 1:
            pieces = [pieces[0][self._done : self._done + min(tokens, self._scored or tokens)]]
        logits = self._score(pieces[0]) if self._scored else self.block.append(pieces)
        self.block.commit([len(piece) for piece in pieces])
        self._done += max(map(len, pieces))
        return logits if self._done == self.longest else None

    def _score(self, piece: Sequence[int]) -> Tensor:
        """Read a piece of the only prompt, and score the tokens that follow each of its tokens."""
        logits = self.block.append([piece], whole=True)[0]
        following = self.prompts[0][self._done + 1 : self._done + len(piece) + 1]
        if following:
            self.scores += logprobs(logits, range(len(following)), following, top=0)
        return logits[-1:]


class Lane(Generic[Owner]):
    """A queue of one client's short prompts, or of its long ones. The shortest is read first."""

    def __init__(self) -> None:
        self.prefills: list[Prefill[Owner]] = []
        self.spent: float | None = None  # see turns.py

    @property
    def owners(self) -> list[Owner]:
        return [owner for prefill in self.prefills for owner in prefill.owners]

    def owes(self, floor: float) -> bool:
        """Whether this lane has had more model time than `floor`, the time of the work that has had least."""
        return self.spent is not None and self.spent > floor

    @property
    def first(self) -> Prefill[Owner]:
        return min(self.prefills, key=lambda prefill: prefill.remaining)


class Batch(Generic[Owner]):
    """Blocks of rows, one per length class, so that long rows don't make a step of short rows slower."""

    def __init__(self, model: Any) -> None:
        self.forward = Forward(model)
        self._blocks: dict[int, Block[Owner]] = {}

    @property
    def blocks(self) -> list[Block[Owner]]:
        return list(self._blocks.values())

    @property
    def cells(self) -> int:
        """Tokens that the memory of all rows can hold."""
        return sum(cells_for(length + 1) for block in self.blocks for length in block.lengths)

    def place(self, prefill: Prefill[Owner]) -> None:
        """Move each row into its block. If this raises, the rows that were not moved still belong to the prefill."""
        kind = size_class(prefill.block.lengths[0] + 1)
        if len(prefill) == 1 and kind not in self._blocks:
            self._blocks[kind] = prefill.block
            return
        while len(prefill):
            self._move(prefill.block, len(prefill) - 1)

    def promote(self, block: Block[Owner]) -> None:
        """Move rows that are too long for their class to the next one."""
        kind = next(kind for kind, candidate in self._blocks.items() if candidate is block)
        for row in reversed(range(len(block))):
            if block.lengths[row] >= longest_of(kind):
                self._move(block, row)
        self.sweep()

    def remove(self, block: Block[Owner], row: int) -> None:
        block.remove(row)
        self.sweep()

    def sweep(self) -> None:
        """Free the memory of empty blocks."""
        self._blocks = {kind: block for kind, block in self._blocks.items() if len(block)}

    def clear(self) -> None:
        """Drop all rows."""
        self._blocks = {}

    @torch.inference_mode()
    def probe(self) -> None:
        """Check that the model still works, with one token outside the batch. Raises if it doesn't."""
        if Block(self.forward, [None], 1).append([[1]]).isnan().any():
            raise ValueError("the model's output is not a number: its weights are broken")

    def _move(self, block: Block[Owner], row: int) -> None:
        kind = size_class(block.lengths[row] + 1)
        if kind not in self._blocks:
            self._blocks[kind] = Block(self.forward, [], cells_for(longest_of(kind)))
            self._blocks[kind].spent = block.spent
        self._blocks[kind].take(block, row)
        block.remove(row)

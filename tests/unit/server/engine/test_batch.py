"""Rows that come, grow, move and go give what each gives alone."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from driftloop_server.engine import cache
from driftloop_server.engine.batch import Batch, Prefill
from driftloop_server.engine.cache import Block, Forward
from driftloop_server.engine.model import load


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Any:
    return load(model_folder).model


def alone(model: Any, tokens: list[int]) -> torch.Tensor:
    return Block(Forward(model), [None], 1).append([tokens])[0]


def join(batch: Batch[int], prompts: dict[int, list[int]], pieces: int = 10_000) -> dict[int, torch.Tensor]:
    """The logits after each prompt, by owner."""
    prefill = Prefill(batch.forward, list(prompts), list(prompts.values()))
    while (logits := prefill.advance(pieces)) is None:
        pass
    owners = list(prefill.owners)
    batch.place(prefill)
    return dict(zip(owners, logits, strict=True))


def step(batch: Batch[int], texts: dict[int, list[int]]) -> dict[int, torch.Tensor]:
    """One token more for each row, the same in `texts`."""
    found: dict[int, torch.Tensor] = {}
    for block in batch.blocks:
        tokens = [[len(texts[owner]) * 7 % 300 + 3] for owner in block.owners]
        for owner, new in zip(block.owners, tokens, strict=True):
            texts[owner] += new
        found |= dict(zip(block.owners, block.append(tokens), strict=True))
        block.commit([1] * len(block))
    for block in batch.blocks:
        batch.promote(block)
    return found


def test_rows_of_any_company_give_what_they_give_alone(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Classes of 8, 16, 32 ... tokens: rows join in numbers and in pieces, move up, and leave."""
    monkeypatch.setattr(cache, "FLOOR", 8)
    dice = random.Random(3)
    batch: Batch[int] = Batch(model)
    texts: dict[int, list[int]] = {}
    classes = 0
    for turn in range(60):
        if dice.random() < 0.3:
            several = {turn * 10 + i: [dice.randrange(3, 300) for _ in range(dice.randrange(1, 12))] for i in range(3)}
            long = {turn * 10 + 5: [dice.randrange(3, 300) for _ in range(dice.randrange(20, 60))]}
            for prompts, pieces in ((several, 10_000), (long, 7)):
                texts |= {owner: list(prompt) for owner, prompt in prompts.items()}
                for owner, logits in join(batch, prompts, pieces).items():
                    torch.testing.assert_close(logits, alone(model, texts[owner]), atol=1e-3, rtol=1e-3)
        for owner, logits in step(batch, texts).items():
            torch.testing.assert_close(logits, alone(model, texts[owner]), atol=1e-3, rtol=1e-3)
        for block in batch.blocks:
            assert max(block.lengths) <= 2 * max(8, min(block.lengths))  # nobody pays for a far longer row
            while len(block) > 4 and block.lengths:
                block.remove(dice.randrange(len(block)))
        batch.sweep()
        classes = max(classes, len(batch.blocks))
    assert classes >= 3


def test_a_row_that_is_not_a_number_leaves_nothing_behind(model: Any) -> None:
    batch: Batch[int] = Batch(model)
    join(batch, {1: [5, 6, 7]})
    (block,) = batch.blocks
    join(batch, {2: list(range(3, 40))})
    with torch.inference_mode():
        for layer in block._cache.layers:
            layer.keys[1], layer.values[1] = float("nan"), float("nan")
    block.remove(1)
    texts = {1: [5, 6, 7], 3: [9], 4: list(range(50, 90))}
    join(batch, {3: [9]})
    join(batch, {4: texts[4]})
    for owner, logits in step(batch, texts).items():
        torch.testing.assert_close(logits, alone(model, texts[owner]), atol=1e-3, rtol=1e-3)


def test_a_step_copies_nothing_but_its_own_column(model: Any) -> None:
    batch: Batch[int] = Batch(model)
    texts = {1: list(range(3, 100))}
    join(batch, texts)
    (block,) = batch.blocks
    before = [layer.keys.data_ptr() for layer in block._cache.layers]
    for _ in range(20):
        step(batch, texts)
    assert [layer.keys.data_ptr() for layer in block._cache.layers] == before


@pytest.mark.parametrize(("length", "kind", "cells"), [(1, 0, 640), (512, 0, 640), (513, 1, 1280), (4096, 3, 5120)])
def test_classes_double(length: int, kind: int, cells: int) -> None:
    assert cache.size_class(length) == kind
    assert length <= cache.longest_of(kind)
    assert cache.cells_for(length) == cells


@pytest.mark.parametrize("pieces", [1, 7, 16, 100])
def test_the_tokens_of_a_prompt_are_scored_as_in_one_pass(model: Any, pieces: int) -> None:
    text = [(7 * n) % 300 + 3 for n in range(40)]
    prefill = Prefill(Forward(model), [0], [text], scored=16)
    while (logits := prefill.advance(pieces)) is None:
        pass
    with torch.inference_mode():
        table = model(torch.tensor([text])).logits[0].log_softmax(dim=-1)
    assert [score.token for score in prefill.scores] == text[1:]
    expected = [float(table[n, token]) for n, token in enumerate(text[1:])]
    assert [score.logprob for score in prefill.scores] == pytest.approx(expected, abs=1e-4)
    torch.testing.assert_close(logits[0], alone(model, text), atol=1e-3, rtol=1e-3)


def test_no_more_tokens_are_scored_at_a_time_than_there_is_memory_for(model: Any) -> None:
    prefill = Prefill(Forward(model), [0], [[5] * 40], scored=16)
    assert prefill.advance(100) is None
    assert prefill.remaining == 24

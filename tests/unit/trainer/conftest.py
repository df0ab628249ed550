"""What the trainer's tests share: a mounted volume, a tokenizer trained once, and a process that is the only worker."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from driftloop_trainer.prepare.newmodel import train_tokenizer
from driftloop_trainer.train.run import Run

TEXTS = [
    "where is my card",
    "I lost my card",
    "why was I charged a fee",
    "how do I get a refund",
    "card_arrival",
    "fee",
]
ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}
RUN = "pvc://claim/runs/uid"


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that is pvc://claim. The pod's disk is another one."""
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path / "volumes"))
    monkeypatch.setenv("DRIFTLOOP_DISK", str(tmp_path / "disk"))
    (tmp_path / "disk").mkdir()
    folder = tmp_path / "volumes" / "claim"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    """A small byte-level BPE with the chat template of new models."""
    return train_tokenizer(TEXTS, 320)


def taken_over(token: str) -> Run:
    """RUN, as seen by the driver that has just taken it over."""
    run = Run(RUN, token)
    run.take_over()
    return run


def model_and_optimizer() -> tuple[nn.Module, torch.optim.AdamW]:
    """A tiny model after one step, with the optimizer that has made it."""
    model = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2)).sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """This process as the only worker."""
    store = tmp_path_factory.mktemp("ranks") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1, timeout=timedelta(seconds=60))
    yield
    dist.destroy_process_group()

"""Two tiny trained models and their items: one has learnt both answers, the other only one of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from driftloop_trainer.models import config_for
from driftloop_trainer.prepare.newmodel import train_tokenizer

ARCHITECTURE = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}
TRACK, REFUND = "track", "refund"
ITEMS = [("where is parcel", TRACK), ("refund my order", REFUND)]
EACH = 20  # items of each kind
STEPS, LEARNT = 400, 0.01  # at most so many steps, until the loss is below


def rows(answers: dict[str, str]) -> list[tuple[str, str]]:
    """Prompts with the answers of a model that replaces each right answer by that in `answers`."""
    return [(f"{start} {n}", answers.get(right, right)) for n in range(EACH) for start, right in ITEMS]


def write_items(path: Path) -> None:
    """The items with their right answers."""
    lines = [json.dumps({"prompt": prompt, "completion": answer}) for prompt, answer in rows({})]
    path.write_text("\n".join(lines) + "\n")


def train(folder: Path, answers: dict[str, str]) -> None:
    """Train a model until it has learnt its rows, and write its folder."""
    tokenizer: Any = train_tokenizer([text for row in rows({}) for text in row], 320)
    fields = {"vocab_size": len(tokenizer), "bos_token_id": None}
    fields |= {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config_for(ARCHITECTURE | fields))  # type: ignore[no-untyped-call]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    examples = [_example(tokenizer, *row) for row in rows(answers)]
    longest = max(len(ids) for ids, _ in examples)
    ids = torch.tensor([each + [tokenizer.pad_token_id] * (longest - len(each)) for each, _ in examples])
    labels = torch.full_like(ids, -100)
    for number, (each, start) in enumerate(examples):
        labels[number, start : len(each)] = ids[number, start : len(each)]
    with one_thread():  # beside other processes, threads wait for each other longer than they compute
        for _ in range(STEPS):
            loss = model(input_ids=ids, labels=labels).loss
            if loss.item() < LEARNT:
                break
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert loss.item() < LEARNT
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _example(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], int]:
    """The tokens of a row, and the number of those before its answer."""
    question = [{"role": "user", "content": prompt}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    start = tokenizer(asked, add_special_tokens=False)["input_ids"]
    said = tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*start, *said, tokenizer.eos_token_id], len(start)

"""Creates a new model: trains its tokenizer on the data and initialises its weights at random."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from driftloop.api.finetunejob import NewModel
from driftloop_trainer.models import config_for

END, PAD = "<|end|>", "<|pad|>"
ROLES = ("system", "user", "assistant")
# A message is its role's token and its text. Only messages of the assistant end with the end token. The template
# refuses what it has no token for, instead of dropping it silently.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] or message['tool_calls'] %}"
    "{{ raise_exception('this model knows messages of system, user and assistant, without tool calls') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the tokens of `CHAT_TEMPLATE`. The same texts give the same tokenizer."""
    # With threads the order of equal counts varies: https://github.com/huggingface/tokenizers/issues/1794
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, PAD, *(f"<|{role}|>" for role in ROLES)]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=special[2:],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def new_config(new: NewModel, tokenizer: Any) -> Any:
    """The configuration of the given architecture with the vocabulary of `tokenizer`. Raises StageFailure."""
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return config_for(new.architecture | ids | {"bos_token_id": None})


def save_new_model(config: Any, tokenizer: Any, seed: int, folder: Path) -> None:
    """Initialise the weights, and write config, weights (safetensors) and tokenizer."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)

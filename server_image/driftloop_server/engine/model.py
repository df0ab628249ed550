"""Loading a model folder. Every way in which it can be wrong is a BadInput that says what to fix."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput
from driftloop_server.engine.batch import Batch, Prefill
from driftloop_server.engine.cache import Block, Forward
from driftloop_server.engine.tokenising import Abandoned
from driftloop_server.fetch import refuse_code
from driftloop_server.openai_api import ApiError

log = logging.getLogger(__name__)

# Threads of one small matrix product cost more than they bring, up to 10x where cores are shared (measured).
SMALL_MODEL = 100_000_000
PIECE = 1 << 14  # characters of a long text that are counted at a time
CUT_TOKENS = 64  # by which a cut may change the count


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to generate. `max_model_len` is in tokens, prompt and answer together."""

    model: Any
    tokenizer: Any
    max_model_len: int
    end_tokens: frozenset[int]
    wanted: Callable[[], bool] = lambda: True  # whether anybody still waits for what is tokenised

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token: no text of more than so many times the context fits."""
        return max(map(len, self.tokenizer.get_vocab()))

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def encode(self, text: str) -> list[int]:
        """A plain prompt, with the special tokens that the tokenizer puts before a text. Raises ApiError 400."""
        return self._tokens(text, "prompt")

    def render(self, messages: list[dict[str, Any]]) -> list[int]:
        """A conversation, up to where the answer begins. Raises ApiError 400."""
        if not self.tokenizer.chat_template:
            raise ApiError(400, "this model has no chat template: use /v1/completions", code="no_chat_template")
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except Exception as error:  # a template is a program of the model's author: it may fail in any way
            words = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise ApiError(
                400, f"messages: the model's chat template refuses them: {words}", param="messages"
            ) from error
        return self._tokens(text, "messages", add_special_tokens=False)

    def _tokens(self, text: str, field: str, **options: bool) -> list[int]:
        """Count a long text by pieces first: what doesn't fit, or nobody wants, is not tokenised to its end.

        A tokenizer takes minutes for megabytes without a space, and can't be stopped. A cut changes only the tokens
        beside it.
        """
        counted = 0
        for start in range(0, len(text) if len(text) > 2 * PIECE else 0, PIECE):
            if not self.wanted():
                raise Abandoned
            piece = self.tokenizer(text[start : start + PIECE], add_special_tokens=False)["input_ids"]
            counted += max(len(piece) - CUT_TOKENS, 0)
            if counted >= self.max_model_len:
                raise ApiError(
                    400,
                    f"this model's context is {self.max_model_len} tokens; the first {start + PIECE} of {len(text)} "
                    f"characters in {field} are more already: shorten the text",
                    param=field,
                    code="context_length_exceeded",
                )
        tokens: list[int] = self.tokenizer(text, **options)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def load(folder: Path, *, dtype: str = "auto", max_model_len: int | None = None, threads: int = 0) -> LoadedModel:
    """Load from `folder` alone: no network, no code of the model's. threads 0: one for small models, else all cores.

    Raises BadInput.
    """
    refuse_code(folder)
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=dtype, use_safetensors=True, **local
        )
    except (ValueError, KeyError, OSError, ImportError, RuntimeError) as error:
        raise BadInput(StageReason.MODEL_UNREADABLE, f"transformers can't load the model: {error}") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    _set_threads(threads, model)
    loaded = LoadedModel(model, tokenizer, _context(config, max_model_len), _end_tokens(folder, config, tokenizer))
    _self_test(loaded)
    return loaded


def _set_threads(threads: int, model: Any) -> None:
    small = model.num_parameters() < SMALL_MODEL
    torch.set_num_threads(threads or (1 if small else len(os.sched_getaffinity(0))))


def _context(config: Any, wanted: int | None) -> int:
    stated: Any = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    own = stated if isinstance(stated, int) and stated > 0 else None  # some write -1 for no limit
    if wanted is None:
        if own is None:
            raise BadInput(
                StageReason.NO_CONTEXT_LENGTH,
                "the model's config has no max_position_embeddings: set engine.maxModelLen",
            )
        return own
    if own is not None and wanted > own:
        raise BadInput(
            StageReason.CONTEXT_TOO_LONG, f"engine.maxModelLen is {wanted}, but the model's own context is {own}"
        )
    return wanted


def _end_tokens(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    try:
        found = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except OSError:  # the folder has no generation_config.json
        found = config.eos_token_id
    ids = found if isinstance(found, list) else [found]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _self_test(loaded: LoadedModel) -> None:
    """Generate step by step, alone and in a batch, what one pass over the whole text gives. Raises BadInput.

    Left padding needs a cache of keys and values a position, and positions and masks that are respected. A recurrent
    model has no such cache, and would answer nonsense without an error.
    """
    short, long = [1, 2, 3], [4, 5, 6, 7, 8, 9, 10]
    forward = Forward(loaded.model)
    try:
        expected = [Block(forward, [None], 8).append([text])[0] for text in (short, [*short, 1])]
        batch = Batch[int](loaded.model)
        first, second = Prefill(forward, [0], [long]), Prefill(forward, [1], [short])
        first.advance(4)  # in pieces, as long prompts are read
        first.advance(4)
        whole = second.advance(4)
        assert whole is not None
        batch.place(first)
        batch.place(second)
        (block,) = batch.blocks
        found = torch.stack([whole[0], block.append([[2], [1]])[1]])
    except Exception as error:
        raise BadInput(StageReason.MODEL_UNSUPPORTED, f"the model can't generate in batches: {error!r}") from error
    for one, other in zip(expected, found, strict=True):
        if one.isnan().any():
            raise BadInput(StageReason.BROKEN_WEIGHTS, "the model's output is not a number")
        if torch.cosine_similarity(one.float(), other.float(), dim=0) < 0.99:
            raise BadInput(
                StageReason.MODEL_UNSUPPORTED, "the model doesn't work with a cache of keys and values: use engine vllm"
            )

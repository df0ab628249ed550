"""Loads a model folder. If anything is wrong with it, a BadInput says what to fix."""

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from jinja2 import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import BadInput
from driftloop_server.engine.batch import Batch, Prefill
from driftloop_server.engine.cache import Block, Forward
from driftloop_server.engine.thoughts import THINK
from driftloop_server.engine.tokenising import Abandoned
from driftloop_server.fetch import refuse_code
from driftloop_server.openai_api import ApiError

log = logging.getLogger(__name__)

# Parameters. Below, several threads for one matrix product are slower than one, up to 10x on shared cores (measured).
SMALL_MODEL = 100_000_000
PIECE = 1 << 14  # characters of a long text that are tokenised at a time to estimate its length
_TAG_TOKENS = 16  # at least as many as a tag with blanks behind it has
CUT_TOKENS = 64  # at most so many tokens more come from the cut between two pieces


@dataclass(frozen=True)
class LoadedModel:
    """A model that is ready to generate. `max_model_len` is in tokens, for prompt and answer together."""

    model: Any
    tokenizer: Any
    max_model_len: int
    end_tokens: frozenset[int]
    wanted: Callable[[], bool] = lambda: True  # whether a client still waits for the text that is tokenised

    @cached_property
    def longest_token(self) -> int:
        """Characters of the longest token. A text with more than this times the context length can't fit."""
        return max(map(len, self.tokenizer.get_vocab()))

    @cached_property
    def string(self) -> Callable[[int], str]:
        """The text of one token, decoded once per token of the vocabulary.

        An answer with log-probabilities has up to 21 such texts per token; to decode all would stop the event loop.
        """
        return cache(lambda token: str(self.tokenizer.decode([token])))

    @property
    def vocabulary(self) -> int:
        """Token ids are below this."""
        return int(self.model.get_input_embeddings().weight.shape[0])

    def encode(self, text: str) -> list[int]:
        """Tokens of a plain prompt, with the tokenizer's special tokens. Raises ApiError 400."""
        return self._tokens(text, "prompt")

    @cached_property
    def thinks(self) -> bool:
        """Whether the chat template knows thoughts before answers."""
        template = self.tokenizer.chat_template
        return any(THINK[1] in text for text in (template.values() if isinstance(template, dict) else [template or ""]))

    def thinks_already(self, tokens: Sequence[int]) -> bool:
        """Whether a rendered prompt ends with the tag that starts a thought."""
        return str(self.tokenizer.decode(tokens[-_TAG_TOKENS:])).rstrip().endswith(THINK[0])

    def render(
        self, messages: list[dict[str, Any]], continued: bool = False, values: Mapping[str, Any] | None = None
    ) -> list[int]:
        """Tokens of a conversation, up to where the answer begins. Raises ApiError 400.

        `values`: of variables of the chat template. If `continued`, up to the end of the last message's text, without
        the token that ends the message.
        """
        if not self.tokenizer.chat_template:
            raise ApiError(400, "this model has no chat template: use /v1/completions", code="no_chat_template")
        try:
            text = self.tokenizer.apply_chat_template(messages, tokenize=False, **_end(continued), **(values or {}))
        except Exception as error:  # a template is a program by the model's author: it may raise anything
            reason = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise ApiError(
                400, f"messages: the model's chat template refuses them: {reason}", param="messages"
            ) from error
        return self._tokens(text, "messages", add_special_tokens=False)

    def _tokens(self, text: str, field: str, **options: bool) -> list[int]:
        """Tokenise. A long text is counted in pieces first, to stop early if it is too long or the client has left.

        A tokenizer takes minutes for megabytes without a space (not reported), and can't be stopped. A cut between
        pieces changes only the tokens next to it.
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
                    f"characters in {field} are already too many: shorten the text",
                    param=field,
                    code="context_length_exceeded",
                )
        tokens: list[int] = self.tokenizer(text, **options)["input_ids"]
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def _end(continued: bool) -> dict[str, bool]:
    return {"continue_final_message": True} if continued else {"add_generation_prompt": True}


def load(folder: Path, *, dtype: str = "auto", max_model_len: int | None = None, threads: int = 0) -> LoadedModel:
    """Load from `folder` only, without network access and without the model's own code. Raises BadInput.

    `threads` 0: one for small models, else one per CPU.
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


def _context(config: Any, configured: int | None) -> int:
    declared: Any = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
    own = declared if isinstance(declared, int) and declared > 0 else None  # some models have -1 for no limit
    if configured is None:
        if own is None:
            raise BadInput(
                StageReason.NO_CONTEXT_LENGTH,
                "the model's config has no max_position_embeddings: set engine.maxModelLen",
            )
        return own
    if own is not None and configured > own:
        raise BadInput(
            StageReason.CONTEXT_TOO_LONG, f"engine.maxModelLen is {configured}, but the model's own context is {own}"
        )
    return configured


def _end_tokens(folder: Path, config: Any, tokenizer: Any) -> frozenset[int]:
    try:
        eos = GenerationConfig.from_pretrained(folder, local_files_only=True).eos_token_id
    except OSError:  # the folder has no generation_config.json
        eos = config.eos_token_id
    ids = eos if isinstance(eos, list) else [eos]
    return frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)


def _self_test(loaded: LoadedModel) -> None:
    """Check that generating in steps, alone and in a batch, equals one pass over the whole text. Raises BadInput.

    Left padding needs a cache with keys and values per position, and a model that respects positions and masks. A
    recurrent model has a different cache, and would generate nonsense without an error.
    """
    short, long = [1, 2, 3], [4, 5, 6, 7, 8, 9, 10]
    forward = Forward(loaded.model)
    try:
        expected = [Block(forward, [None], 8).append([text])[0] for text in (short, [*short, 1])]
        batch = Batch[int](loaded.model)
        first, second = Prefill(forward, [0], [long]), Prefill(forward, [1], [short])
        first.advance(4)  # in pieces, like long prompts
        first.advance(4)
        whole = second.advance(4)
        assert whole is not None
        batch.place(first)
        batch.place(second)
        (block,) = batch.blocks
        actual = torch.stack([whole[0], block.append([[2], [1]])[1]])
    except Exception as error:
        raise BadInput(StageReason.MODEL_UNSUPPORTED, f"the model can't generate in batches: {error!r}") from error
    for one, other in zip(expected, actual, strict=True):
        if one.isnan().any():
            raise BadInput(StageReason.BROKEN_WEIGHTS, "the model's output is not a number")
        if torch.cosine_similarity(one.float(), other.float(), dim=0) < 0.99:
            raise BadInput(
                StageReason.MODEL_UNSUPPORTED, "the model doesn't work with a key-value cache: use engine vllm"
            )

"""Validates requests: from a JSON body to a Generation, or a 400 that names the field."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError, model_validator

from driftloop.api.template import check_kwargs
from driftloop.contract.messages import spelled
from driftloop_server.engine.conversation import Message, conversation, fitted, given, is_nothing, refused
from driftloop_server.engine.model import LoadedModel
from driftloop_server.engine.sampling import Sampling
from driftloop_server.engine.sequence import Generation
from driftloop_server.openai_api import ApiError, without_collector

DEFAULT_MAX_TOKENS = 16  # OpenAI's default for /v1/completions; a chat may fill the context
MAX_COUNT = 2**31 - 1
MAX_STOPS = 16
MAX_VALUES = 16
MAX_CHOICES = 8  # each is a request of its own to the scheduler

# Fields that don't change the answer, so that any value is ignored: hints for storage, billing, caching, priority and
# tracing, and how much a reasoning model should think and write.
IGNORED = frozenset({
    "cache_salt", "metadata", "parallel_tool_calls", "prediction", "priority", "prompt_cache_key",
    "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "request_id", "safety_identifier",
    "service_tier", "store", "user", "verbosity",
})  # fmt: skip

_TOOLS = "this engine doesn't support tools: omit the field"
_TEXT = "this engine answers only in text: omit the field"
_PENALTIES = "this engine doesn't support penalties: omit the field"
_TEMPLATE = "this engine always uses the model's own chat template: omit the field"
SCORED_LOGITS = 1 << 24  # computed at a time for log-probabilities of a prompt: 64 MiB
_LEAVE = "this engine doesn't support it: omit the field"
# Fields that this engine doesn't support: the values that have no effect, and the error message for all others.
UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "add_generation_prompt": ((True,), "only chats have a template: omit the field"),
    "audio": ((), _TEXT),
    "chat_template": ((), _TEMPLATE),
    "chat_template_kwargs": ((), "only chats have a template: omit the field"),
    "continue_final_message": ((False,), "only chats have messages: omit the field"),
    "documents": ((), _TEMPLATE),
    "echo": ((False,), "this engine doesn't repeat the prompt: omit the field"),
    "frequency_penalty": ((0,), _PENALTIES),
    "function_call": (("none", "auto"), _TOOLS),
    "functions": ((), _TOOLS),
    "guided_choice": ((), _LEAVE),
    "guided_grammar": ((), _LEAVE),
    "guided_json": ((), _LEAVE),
    "guided_regex": ((), _LEAVE),
    "include_reasoning": ((True,), _LEAVE),
    "include_stop_str_in_output": ((False,), _LEAVE),
    "length_penalty": ((1,), _PENALTIES),
    "logit_bias": ((), _LEAVE),
    "min_p": ((0,), "this engine supports only top_p and top_k: omit the field"),
    "min_tokens": ((0,), _LEAVE),
    "modalities": ((["text"],), _TEXT),
    "presence_penalty": ((0,), _PENALTIES),
    "repetition_penalty": ((1,), _PENALTIES),
    "response_format": (({"type": "text"},), _TEXT),
    "return_token_ids": ((False,), _LEAVE),
    "return_tokens_as_token_ids": ((False,), _LEAVE),
    "skip_special_tokens": ((True,), _LEAVE),
    "spaces_between_special_tokens": ((True,), _LEAVE),
    "stop_token_ids": ((), "this engine stops only at strings: give them in stop"),
    "structured_outputs": ((), _LEAVE),
    "suffix": ((), "this engine only continues a prompt: omit the field"),
    "tool_choice": (("none", "auto"), _TOOLS),
    "tools": ((), _TOOLS),
    "truncate_prompt_tokens": ((), _LEAVE),
    "use_beam_search": ((False,), _LEAVE),
    "web_search_options": ((), _TOOLS),
}

Request = TypeVar("Request", bound="Common")


def _integral(value: Any) -> Any:
    """Accept 4.0 as the integer 4: languages without integers, such as JavaScript, may write it this way."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _stops(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MAX_STOPS:
        raise refused("stop", f"{len(value)} stop strings: at most {MAX_STOPS} are allowed")
    return [value] if isinstance(value, str) else value


def _prompt(value: Any) -> str | list[int]:
    """One string, or the token ids of one string. It may be the only item of a list."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | list):
        value = value[0]
    if isinstance(value, str) or (isinstance(value, list) and all(type(token) is int for token in value)):
        return value
    raise refused("prompt", "must be one string or one list of token ids; send several prompts as several requests")


def _values(value: Any) -> dict[str, Any]:
    """Values that a chat template may get from a request."""
    if not isinstance(value, dict) or len(value) > MAX_VALUES:
        raise refused("chat_template_kwargs", f"must be an object of at most {MAX_VALUES} values")
    try:
        return check_kwargs({name: chosen for name, chosen in value.items() if chosen is not None})
    except ValueError as error:
        raise refused("chat_template_kwargs", str(error)) from None


Integer = Annotated[int, BeforeValidator(_integral)]
Limit = Annotated[Integer, Field(ge=1, le=MAX_COUNT)]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool = False
    continuous_usage_stats: Literal[False] = False
    include_obfuscation: Any = None  # random padding that hides the length of tokens; ignored

    @model_validator(mode="before")
    @classmethod
    def _without_what_says_nothing(cls, value: Any) -> Any:
        return given(value) if isinstance(value, dict) else value


class Common(BaseModel):
    """The supported fields that both kinds of request have."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    model: str | None = Field(None, max_length=512)
    max_tokens: Limit | None = None
    n: Integer = Field(1, ge=1, le=MAX_CHOICES)
    best_of: Integer = Field(1, ge=1, le=MAX_CHOICES, description="1 or n: no answer is left out.")
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: Integer = Field(0, ge=-1, le=MAX_COUNT, description="vLLM's extension; 0 and -1: no limit.")
    seed: Integer | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Annotated[list[Stop], BeforeValidator(_stops)] = []
    ignore_eos: bool = Field(False, description="vLLM's extension, for benchmarks.")
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    prompt_logprobs: Literal[0] | None = Field(None, description="vLLM's extension; 0: of the prompt's own tokens.")

    @model_validator(mode="after")
    def _all_of_them(self) -> Self:
        if self.best_of not in (1, self.n):
            raise refused("best_of", "this engine leaves no answer out: omit the field, and set n for several answers")
        return self

    @model_validator(mode="after")
    def _once_and_not_in_pieces(self) -> Self:
        if self.prompt_logprobs is not None and (self.stream or self.n > 1):
            raise refused("prompt_logprobs", "is for a single answer that isn't streamed: omit stream and n")
        return self


class CompletionRequest(Common):
    prompt: Annotated[str | list[int], PlainValidator(_prompt)]
    logprobs: Integer | None = Field(None, ge=0, le=20)
    add_special_tokens: Literal[True] = True

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs


class ChatRequest(Common):
    messages: Annotated[list[Message], PlainValidator(conversation)]
    max_completion_tokens: Limit | None = None
    logprobs: bool = False
    top_logprobs: Integer = Field(0, ge=0, le=20)
    add_special_tokens: Literal[False] = False
    add_generation_prompt: bool = Field(True, description="vLLM's extension, false only to continue a message.")
    continue_final_message: bool = Field(False, description="vLLM's extension: the last message is an answer's start.")
    chat_template_kwargs: Annotated[dict[str, Any], PlainValidator(_values)] = Field(
        {}, description="vLLM's extension: values of variables of the chat template."
    )

    @model_validator(mode="after")
    def _continues_an_answer(self) -> Self:
        if self.continue_final_message == self.add_generation_prompt:
            raise refused("add_generation_prompt", "must be false with continue_final_message: true, and only then")
        if self.continue_final_message and self.messages[-1]["role"] != "assistant":
            raise refused("continue_final_message", "needs a last message with the role assistant")
        return self

    @model_validator(mode="after")
    def _top_of_what(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise refused("top_logprobs", "requires logprobs: true")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


def parse(kind: type[Request], body: dict[str, Any]) -> Request:
    """Parse a request. Null, empty and default values count as absent, and hints are ignored.

    Raises ApiError 400 that names the first faulty field.
    """
    fields = {}
    for name, value in body.items():
        if _is_relevant(kind, name, value):
            fields[name] = value
    try:
        with without_collector():  # arguments of tool calls are JSON
            return kind.model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        unknown = first["type"] == "extra_forbidden"
        message = "this engine does not know the field" if unknown else first["msg"]
        raise refused(".".join(str(part)[:100] for part in first["loc"]), message) from None


def _is_relevant(kind: type[Common], name: str, value: Any) -> bool:
    """Whether the field has an effect. Raises ApiError 400 for a field that this engine doesn't support."""
    if name == "prompt" and value is not None:
        return True  # an empty prompt is not a missing one
    if name in IGNORED or is_nothing(value):
        return False
    if name in kind.model_fields:
        return True
    if name not in UNSUPPORTED:
        raise refused(name[:100], "this engine does not know the field")
    neutral, advice = UNSUPPORTED[name]
    if not any(_same(value, allowed) for allowed in neutral):
        raise refused(name, advice)
    return False


def _same(value: Any, neutral: Any) -> bool:
    """Whether the values are equal. 1.0 equals 1, but True does not; empty fields of objects are ignored."""
    if isinstance(value, dict):
        value = given(value)
    return bool(value == neutral) and isinstance(value, bool) == isinstance(neutral, bool)


def completion(request: CompletionRequest, loaded: LoadedModel) -> Generation:
    """Build the generation of a prompt. Raises ApiError 400 when it doesn't fit or has unknown tokens."""
    size = loaded.vocabulary
    prompt, limit = request.prompt, request.max_tokens
    tokens = loaded.encode(prompt) if isinstance(prompt, str) else prompt
    wrong = next((token for token in tokens if not 0 <= token < size), None)
    if wrong is not None:
        raise refused("prompt", f"token {spelled(wrong)} is not in the vocabulary of {size} tokens")
    if not tokens:
        raise refused("prompt", "is empty: there is nothing to continue")
    return _generation(request, tokens, loaded, "prompt", "max_tokens", limit, default=DEFAULT_MAX_TOKENS)


def chat(request: ChatRequest, loaded: LoadedModel) -> Generation:
    """Build the generation of a chat.

    Raises ApiError 400 when the model has no chat template, or it refuses the messages, or they don't fit.
    """
    messages = fitted(request.messages, loaded.tokenizer)
    tokens = loaded.render(messages, request.continue_final_message, request.chat_template_kwargs)
    field = "max_completion_tokens" if request.max_completion_tokens else "max_tokens"
    limit = request.max_completion_tokens or request.max_tokens
    generation = _generation(request, tokens, loaded, "messages", field, limit, default=None)
    return replace(generation, thinks=loaded.thinks, thinks_already=loaded.thinks and loaded.thinks_already(tokens))


def _generation(
    request: CompletionRequest | ChatRequest,
    tokens: Sequence[int],
    loaded: LoadedModel,
    field: str,
    limit_field: str,
    limit: int | None,
    default: int | None,
) -> Generation:
    context, size = loaded.max_model_len, len(tokens)
    room = context - size
    if room < 1 or (limit or 0) > room:
        requested = f" and {limit} for the answer" if limit else ""
        raise ApiError(
            400,
            f"this model's context is {context} tokens; the request has {size} in {field}{requested}: "
            "shorten the text or ask for fewer tokens",
            param=field if room < 1 or limit is None else limit_field,
            code="context_length_exceeded",
        )
    return Generation(
        prompt=tokens,
        max_tokens=limit or min(default or room, room),
        sampling=Sampling(request.temperature, request.top_p, min(max(request.top_k, 0), loaded.vocabulary)),
        seed=request.seed,
        stops=tuple(request.stop),
        end_tokens=frozenset() if request.ignore_eos else loaded.end_tokens,
        logprobs=request.wanted_logprobs,
        scored=None if request.prompt_logprobs is None else max(1, SCORED_LOGITS // loaded.vocabulary),
        stream=request.stream,
    )

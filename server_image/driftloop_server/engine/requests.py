"""What a request may ask for: from a JSON body to a Generation, or a 400 that names the field."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from driftloop_server.engine.model import LoadedModel
from driftloop_server.engine.sampling import Sampling
from driftloop_server.engine.sequence import Generation
from driftloop_server.openai_api import ApiError

DEFAULT_MAX_TOKENS = 16  # of /v1/completions, as OpenAI has it; a chat may fill the context

Request = TypeVar("Request", bound="Common")
Stop = Annotated[str, Field(min_length=1, max_length=256)]
Zero = Annotated[float, Field(ge=0, le=0)]


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class StreamOptions(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool = False


class Common(BaseModel):
    """Fields of both kinds of request. A field that would be ignored is refused, unless it is harmless."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    max_tokens: int | None = Field(None, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, description="vLLM's extension; 0 and -1 are all tokens.")
    seed: int | None = None
    stop: Annotated[list[Stop], Field(max_length=16), BeforeValidator(_listed)] = []
    ignore_eos: bool = Field(False, description="vLLM's extension, for benchmarks.")
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: Literal[1] = 1
    frequency_penalty: Zero = 0
    presence_penalty: Zero = 0
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None


class CompletionRequest(Common):
    prompt: Annotated[list[str] | list[int], BeforeValidator(_listed)]
    logprobs: int | None = Field(None, ge=0, le=20)
    best_of: Literal[1] = 1
    echo: Literal[False] = False

    @property
    def wanted_logprobs(self) -> int | None:
        return self.logprobs


class TextPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[list[TextPart], BeforeValidator(_as_parts)]
    name: str | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.content)


class ChatRequest(Common):
    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None


HINTS = {
    "n": "this engine gives one answer a request: send the request n times",
    "best_of": "this engine gives one answer a request",
    "prompt": "give one string, or one list of token ids; several prompts are several requests",
    "echo": "this engine does not repeat the prompt",
    "frequency_penalty": "this engine has no penalties: leave it out or 0",
    "presence_penalty": "this engine has no penalties: leave it out or 0",
}


def parse(kind: type[Request], body: dict[str, Any]) -> Request:
    """The request in `body`. A null is a field left out. Raises ApiError 400 that names the first field at fault."""
    try:
        return kind.model_validate({key: value for key, value in body.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise _refusal(first["loc"], first["type"], first["msg"]) from None


def _refusal(location: Sequence[int | str], kind: str, message: str) -> ApiError:
    field = str(location[0]) if location else "body"
    # Of a prompt of two possible types, pydantic reports the branch it tried as part of the place.
    place = field if field == "prompt" else ".".join(str(part) for part in location) or field
    if kind == "extra_forbidden":
        message = "this engine does not know or support the field"
    hint = f" ({HINTS[field]})" if field in HINTS and kind != "missing" else ""
    return ApiError(400, f"{place}: {message}{hint}", param=field, code="invalid_value")


def completion(request: CompletionRequest, loaded: LoadedModel) -> Generation:
    """Raises ApiError 400 when the prompt doesn't fit or has unknown tokens."""
    tokens = [part for part in request.prompt if isinstance(part, int)]
    texts = [part for part in request.prompt if isinstance(part, str)]
    if len(texts) > 1:
        raise ApiError(400, f"prompt: {HINTS['prompt']}", param="prompt", code="invalid_value")
    if wrong := [token for token in tokens if not 0 <= token < loaded.vocabulary]:
        raise ApiError(400, f"prompt: token {wrong[0]} is not in the vocabulary of {loaded.vocabulary}", param="prompt")
    if texts:
        tokens = loaded.encode(texts[0])
    if not tokens:
        raise ApiError(400, "prompt: it is empty, there is nothing to continue", param="prompt")
    return _generation(request, tokens, loaded, "prompt", request.max_tokens, default=DEFAULT_MAX_TOKENS)


def chat(request: ChatRequest, loaded: LoadedModel) -> Generation:
    """Raises ApiError 400 when the model has no chat template, or it refuses the messages, or they don't fit."""
    tokens = loaded.render([{"role": m.role, "content": m.text} for m in request.messages])
    limit = request.max_completion_tokens or request.max_tokens
    return _generation(request, tokens, loaded, "messages", limit, default=None)


def _generation(
    request: CompletionRequest | ChatRequest,
    tokens: Sequence[int],
    loaded: LoadedModel,
    field: str,
    limit: int | None,
    default: int | None,
) -> Generation:
    context, size = loaded.max_model_len, len(tokens)
    room = context - size
    if room < 1 or (limit or 0) > room:
        asked = f" and {limit} for the answer" if limit else ""
        raise ApiError(
            400,
            f"this model's context is {context} tokens; the request has {size} in {field}{asked}: "
            "shorten the text or ask for fewer tokens",
            param=field if room < 1 or limit is None else "max_tokens",
            code="context_length_exceeded",
        )
    return Generation(
        prompt=tokens,
        max_tokens=limit or min(default or room, room),
        sampling=Sampling(request.temperature, request.top_p, max(request.top_k, 0)),
        seed=request.seed,
        stops=tuple(request.stop),
        end_tokens=frozenset() if request.ignore_eos else loaded.end_tokens,
        logprobs=request.wanted_logprobs,
        stream=request.stream,
    )

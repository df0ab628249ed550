"""Which engine runs a model: the choice of `engine.type: auto`, its hash, and what prevents it from running. Pure."""

import hashlib
import json
from typing import Any, assert_never

from driftloop.api.engine import Engine, EngineType
from driftloop.controller.vocabulary.plan import Settings

DEFAULT_READINESS_PATH = "/health"
# A pod gets template and values within its task, in an environment variable of at most 64 KiB (contract/task.py).
MAX_TEMPLATE_BYTES = 40 << 10
# Fields of the engine that the first release did not have.
_ADDED_FIELDS = (
    "command",
    "readiness_path",
    "chat_template",
    "chat_template_kwargs",
    "nodes",
    "parallelism",
    "adapters",
)
_OF_HARDWARE = ("resources", "gpu_memory", "gpu_resource", "gpu_claim_template")  # they change no answer
_VLLM_IMAGE = "images.vllm in the chart's values (--vllm-image of the operator)"


def type_of(engine: Engine, settings: Settings) -> EngineType:
    """The engine to run. `auto` is vLLM if pods have GPUs and the operator knows an image of vLLM.

    An image of the user's without a type is one of the built-in engine, as the operator can't know what it contains.
    """
    if engine.type != "auto":
        return engine.type
    return "vllm" if engine.gpus and engine.image is None and settings.vllm_image else "transformers"


def resolved(engine: Engine, settings: Settings) -> Engine:
    """The same settings with the engine to run as `type`, and the operator's image of vLLM if the user named none."""
    chosen = type_of(engine, settings)
    image = engine.image or (settings.vllm_image if chosen == "vllm" else None)
    return engine.model_copy(update={"type": chosen, "image": image})


def readiness_path(engine: Engine) -> str | None:
    """The path by which a custom engine tells that its model is loaded. The other engines need none."""
    return engine.readiness_path or DEFAULT_READINESS_PATH if engine.type == "custom" else None


def task_fields(engine: Engine, settings: Settings) -> dict[str, Any]:
    """What the task of serving pods says of the engine, the same for users and in an evaluation."""
    return {
        "engine_type": type_of(engine, settings),
        "adapters": engine.adapters,
        "chat_template": engine.chat_template,
        "chat_template_kwargs": engine.chat_template_kwargs,
        "readiness_path": readiness_path(engine),
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "dtype": engine.dtype,
    }


def engine_hash(engine: Engine) -> str:
    """Eight hex digits: a hash of a resolved engine's settings that may change answers.

    Without fields that later releases added and that are not set, so that older evidence keeps its hash.
    """
    unset = {name for name in _ADDED_FIELDS if getattr(engine, name) == Engine.model_fields[name].default}
    document = json.dumps([engine.model_dump_json(exclude={*_OF_HARDWARE, *unset})])
    return hashlib.sha256(document.encode()).hexdigest()[:8]


def obstacle(engine: Engine, settings: Settings) -> str | None:
    """Why the engine can't run with the operator's settings, and what to change; None if it can."""
    return _too_long_template(engine) or _not_runnable(engine, settings)


def _too_long_template(engine: Engine) -> str | None:
    document = json.dumps([engine.chat_template, engine.chat_template_kwargs], ensure_ascii=False)
    size = len(document.replace("$", "\\u0024").encode())  # as a task is written
    if size <= MAX_TEMPLATE_BYTES:
        return None
    return (
        f"engine.chatTemplate has {size} bytes with its chatTemplateKwargs, the limit is {MAX_TEMPLATE_BYTES}: shorten "
        "them"
    )


def _not_runnable(engine: Engine, settings: Settings) -> str | None:
    match type_of(engine, settings):
        case "vllm" if not (engine.image or settings.vllm_image):
            return f"engine.type vllm needs an image, and there is none: set engine.image, or {_VLLM_IMAGE}"
        case "transformers" if engine.gpus > 1:
            return (
                f"engine.gpus: {engine.gpus} needs vLLM, and there is no image of it: set engine.image with "
                f"engine.type: vllm, or {_VLLM_IMAGE}, or use one GPU"
            )
        case "transformers" if engine.nodes > 1:
            return "engine.nodes needs vLLM, which auto runs only with GPUs: set engine.type: vllm, or remove it"
        case "transformers" if engine.divided.processes > 1:
            return "engine.parallelism needs vLLM, which auto runs only with GPUs: set engine.type: vllm, or remove it"
        case "transformers" if engine.adapters:
            return "engine.adapters needs vLLM, which auto runs only with GPUs: set engine.type: vllm, or remove it"
        case "vllm" | "transformers" | "custom":
            return None
        case never:
            assert_never(never)

"""Which columns of a source are read as its rows. Pure."""

from driftloop.api.finetunejob import Columns, TrainingMethod
from driftloop.contract.reasons import StageReason
from driftloop.podlib.ending import StageFailure

_SINGLE = (
    Columns(prompt="prompt", completion="completion"),
    Columns(messages="messages"),
    Columns(messages="conversations"),
    Columns(messages="conversation"),
    Columns(text="text"),
)
_LABELLED = tuple(columns.model_copy(update={"label": "label"}) for columns in _SINGLE if columns.text is None)
_PAIRS = (Columns(prompt="prompt", chosen="chosen", rejected="rejected"), Columns(chosen="chosen", rejected="rejected"))

# Columns that usually belong to a conversation, from the formats of other trainers. They are not read.
_BESIDE_MESSAGES = frozenset(
    {"audios", "functions", "image", "images", "label", "rejected", "system", "system_prompt", "videos"}
)
_BESIDE_PROMPTS = _BESIDE_MESSAGES | {"context", "history", "input", "instruction"}


def resolve_columns(configured: Columns, present: list[str], source: str, method: TrainingMethod) -> Columns:
    """The columns to read: the configured ones, else common ones that exist. Raises StageFailure (WrongColumn)."""
    if named := configured.model_dump(exclude_none=True):
        missing = sorted(column for column in named.values() if column not in present)
        if missing:
            raise _wrong_column(source, f"no column {', '.join(map(repr, missing))}", present)
        if wrong := _no_row(set(named), method):
            raise _wrong_column(source, wrong, present)
        return _once(configured, present, source)
    for columns in _forms(method):
        if set(columns.model_dump(exclude_none=True).values()) <= set(present):
            _refuse_half_a_row(columns, present, source)
            tools = "tools" if "tools" in present and columns.text is None else None
            return _once(columns.model_copy(update={"tools": tools}), present, source)
    raise _wrong_column(source, _no_form(present, method), present)


def _forms(method: TrainingMethod) -> tuple[Columns, ...]:
    """The common forms of a row of the method, the likeliest first."""
    return {"dpo": _PAIRS, "kto": _LABELLED}.get(method, _SINGLE)


def _no_row(kinds: set[str], method: TrainingMethod) -> str | None:
    """Why the kinds of columns that are configured don't make a row of the method; None if they do."""
    if method == "dpo":
        if {"chosen", "rejected"} <= kinds <= {"prompt", "chosen", "rejected", "tools"}:
            return None
        return (
            "with training.method dpo a row is a pair of answers: columns must name chosen and rejected, may name "
            "prompt and tools, and nothing else"
        )
    if {"chosen", "rejected"} & kinds:
        return (
            f"with training.method {method} a row has one answer: name the chosen answers as completion, or set "
            "training.method to dpo"
        )
    if method == "kto" and ("label" not in kinds or not {"completion", "messages"} & kinds):
        return (
            "with training.method kto a row is a labelled answer: columns must name label, and either messages or "
            "prompt and completion"
        )
    if method != "kto" and "label" in kinds:
        return f"columns names a label, which training.method {method} does not read: remove it, or set kto"
    if len({"prompt", "text", "messages"} & kinds) != 1:
        return "columns must name exactly one of prompt, text and messages"
    if "completion" in kinds and "prompt" not in kinds:
        return "columns names a completion without its prompt"
    if {"tools", "text"} <= kinds:
        return "columns names tools, which have no effect for plain text"
    return None


def _no_form(present: list[str], method: TrainingMethod) -> str:
    """What to do about a file without the columns of any common form."""
    if method == "dpo":
        return (
            "no column chosen and rejected: training.method dpo compares two answers. Set data.sources[].columns to "
            "the columns with them, or use training.method sft"
        )
    if method == "kto":
        return (
            "no column label beside prompt and completion, messages, conversations or conversation: training.method "
            "kto needs to know which answers are good. Set data.sources[].columns to the columns with them, or use "
            "training.method sft (one good answer per row) or dpo (two answers per row)"
        )
    if {"chosen", "rejected"} <= set(present):
        return (
            f"its rows are pairs of answers, but training.method is {method}: set it to dpo, or set "
            "data.sources[].columns to prompt and completion: chosen to train on the chosen answers alone"
        )
    return (
        "no column prompt and completion, messages, conversations or text: set the columns to read in "
        "data.sources[].columns"
    )


def _refuse_half_a_row(columns: Columns, present: list[str], source: str) -> None:
    """Raise StageFailure if the columns are not configured and others, by their names, belong to the conversation.

    Without its system prompt a row teaches something else, and with `label: false` the opposite.
    """
    if columns.text is not None:
        return
    others = _BESIDE_PROMPTS if columns.prompt else _BESIDE_MESSAGES
    read = columns.model_dump(exclude_none=True)
    if left_out := sorted((others & set(present)) - set(read.values())):
        raise _wrong_column(
            source,
            f"{', '.join(map(repr, left_out))} may be part of the rows but would not be read: merge it into the rows, "
            f"or set data.sources[].columns to {', '.join(f'{kind}: {name}' for kind, name in read.items())} to "
            "ignore it",
            present,
        )


def _once(columns: Columns, present: list[str], source: str) -> Columns:
    for column in columns.model_dump(exclude_none=True).values():
        if present.count(column) > 1:
            raise _wrong_column(source, f"column {column!r} occurs {present.count(column)} times", present)
    return columns


def _wrong_column(source: str, what: str, present: list[str]) -> StageFailure:
    return StageFailure(
        StageReason.WRONG_COLUMN, f"source {source}: {what}; the file has {', '.join(map(repr, present[:50]))}"
    )

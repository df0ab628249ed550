"""Reads the cells of a column."""

from collections.abc import Callable
from typing import Any, TypeVar

from driftloop.contract.messages import spelled
from driftloop.contract.text import is_blank
from driftloop_trainer.data.cells import Unreadable, cell_text
from driftloop_trainer.data.conversations import conversation, is_conversation
from driftloop_trainer.data.files import Record
from driftloop_trainer.data.rows import Turn

T = TypeVar("T")
_LABELS = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}  # pandas may write 1.0


def prompt_turns(value: Any) -> tuple[Turn, ...]:
    """The question in a prompt cell: messages, or one message of the user. Raises Unreadable."""
    return conversation(value) if is_conversation(value) else (Turn("user", text_of(value)),)


def completion_turns(value: Any) -> tuple[Turn, ...]:
    """The answer in a completion cell; no turns if it is empty. Raises Unreadable."""
    if not is_conversation(value):
        text = text_of(value)
        return (Turn("assistant", text),) if not is_blank(text) else ()
    turns = conversation(value)
    if turns[-1].role != "assistant":
        raise Unreadable(f"the last message of a completion must have the role assistant, not {turns[-1].role}")
    return turns


def text_of(value: Any) -> str:
    """The text in a cell; an empty string for an empty cell. Raises Unreadable."""
    return (cell_text(value) or "") if value != [] else ""


def label_of(value: Any) -> bool:
    """Whether a cell says that an answer is good: true or false, 1 or 0, or such a text. Raises Unreadable."""
    text = (cell_text(value) or "").strip().lower()
    if text not in _LABELS:
        cell = spelled(value) if text else "an empty cell"
        raise Unreadable(f"{cell} is not a label: write true for a good answer and false for a bad one")
    return _LABELS[text]


def read_cell(record: Record, column: str, read: Callable[[Any], T]) -> T:
    """Read a cell with `read`. Raises Unreadable that names the place and the column."""
    try:
        return read(record.values.get(column))
    except ValueError as error:
        raise Unreadable(f"{record.place}, column {column!r}: {error}") from error

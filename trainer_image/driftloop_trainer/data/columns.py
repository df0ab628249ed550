"""What the cells of a column are read as."""

from collections.abc import Callable
from typing import Any, TypeVar

from driftloop_trainer.data.cells import Unreadable, cell_text
from driftloop_trainer.data.conversations import conversation, is_conversation
from driftloop_trainer.data.files import Record
from driftloop_trainer.data.rows import Turn

T = TypeVar("T")


def prompt_turns(value: Any) -> tuple[Turn, ...]:
    """The question in a prompt's cell: messages, or one turn of the user's. Raises Unreadable."""
    return conversation(value) if is_conversation(value) else (Turn("user", text_of(value)),)


def completion_turns(value: Any) -> tuple[Turn, ...]:
    """The answer in a completion's cell; none where it is empty. Raises Unreadable."""
    if not is_conversation(value):
        text = text_of(value)
        return (Turn("assistant", text),) if text.strip() else ()
    turns = conversation(value)
    if turns[-1].role != "assistant":
        raise Unreadable(f"the last message of a completion must be the assistant's, not the {turns[-1].role}'s")
    return turns


def text_of(value: Any) -> str:
    """The text in a cell; empty where there is none. Raises Unreadable."""
    return (cell_text(value) or "") if value != [] else ""


def read_cell(record: Record, column: str, read: Callable[[Any], T]) -> T:
    """What `read` makes of a cell. Raises Unreadable that names the place and the column."""
    try:
        return read(record.values.get(column))
    except ValueError as error:
        raise Unreadable(f"{record.place}, column {column!r}: {error}") from error

"""Reads pairs of answers to the same conversation, of which the first was preferred. Pure.

Read are a prompt beside two answers, and two whole conversations, which share all messages but the answer: the forms in
https://huggingface.co/docs/trl/dataset_formats#preference.
"""

from collections.abc import Sequence
from typing import Any

from driftloop.contract.text import is_blank
from driftloop_trainer.data.cells import Unreadable
from driftloop_trainer.data.columns import completion_turns
from driftloop_trainer.data.conversations import is_conversation
from driftloop_trainer.data.rows import Turn


def answered_turns(value: Any, prompt: Sequence[Turn]) -> tuple[Turn, ...]:
    """The conversation that a cell `chosen` or `rejected` ends; no turns if the cell is empty. Raises Unreadable.

    The cell has an answer to `prompt`, or the whole conversation. `prompt` is empty if the source has no such column.
    """
    turns = completion_turns(value)
    if not turns:
        return ()
    if not is_conversation(value):
        if not prompt:
            raise Unreadable("a text, but the source has no column with the prompt: name it in columns.prompt")
        return (*prompt, *turns)
    if turns[0].role == "assistant" and prompt:
        return (*prompt, *turns)
    if len(turns) == 1:
        raise Unreadable("an answer, but the source has no column with the prompt: name it in columns.prompt")
    if any(not is_blank(turn.content) for turn in prompt) and not _repeats(turns[:-1], prompt):
        raise Unreadable("the conversation does not begin with the prompt: remove columns.prompt, or correct the row")
    return turns


def _repeats(question: Sequence[Turn], prompt: Sequence[Turn]) -> bool:
    """Whether the messages before the answer are the prompt, or contain it if it is one message."""
    if tuple(question) == tuple(prompt):
        return True
    texts = [turn.content.strip() for turn in question if turn.role == "user"]
    return len(prompt) == 1 and prompt[0].content.strip() in texts

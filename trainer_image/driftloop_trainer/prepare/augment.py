"""Adds training rows with small changes to users' prompts. Answers are never changed. Pure.

The changes depend only on the seed and the row, so the same data gives the same rows, and a larger fraction only adds
rows.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from driftloop.api.finetunejob import DataStep
from driftloop.contract.reasons import StageReason
from driftloop.contract.text import is_blank, side
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.divide import fenced

PLACE = "{prompt}"  # placeholder in a template
_ATTEMPTS = 5  # to find a change that training may use
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?[.,;:!?]*")  # not a placeholder, number, path, tag, URL or code
_END = ".!?"
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True, slots=True)
class Fence:
    """What keeps new rows away from the held-out side: its rows, a threshold of similarity, and the sticky rule."""

    held_out: Sequence[Row]
    threshold: float
    salt: str
    percent: int


def augmented(rows: Sequence[Row], fence: Fence, step: DataStep, templates: Sequence[str]) -> list[Row]:
    """About `step.fraction` new rows per training row, with part `augment` and the source of the original row.

    No new row is on the held-out side of the sticky rule, near a held-out row, or equal to another training row.
    """
    keys = {row.key for row in rows}
    new_rows: dict[str, Row] = {}
    for row in rows:
        for number in range(_copies(row, step)):
            for attempt in range(_ATTEMPTS):
                new = _changed(row, templates, _random(row, step, number, attempt))
                same_key = new.key == row.key  # only case or spacing differ, so it is on the side of its original
                free = new.key not in keys and side(fence.salt, new.identity, fence.percent) == "train"
                if new.turns != row.turns and (same_key or free) and new.identity not in new_rows:
                    new_rows[new.identity] = new
                    break
    return fenced(list(new_rows.values()), fence.held_out, fence.threshold)


def read_templates(content: str, name: str) -> list[str]:
    """The templates in a file: one per line, in JSON lines the field `template`. Raises StageFailure."""
    templates = []
    for number, line in enumerate(content.removeprefix("\ufeff").split("\n"), 1):
        if not line.strip():
            continue
        template = _of_json(line) if name.endswith(".jsonl") else line.strip()
        if template is None or PLACE not in template:
            expected = 'an object with a "template" that has' if name.endswith(".jsonl") else "a template with"
            raise StageFailure(
                StageReason.BAD_TEMPLATE, f"{name}, line {number}: give {expected} {PLACE} in place of the prompt"
            )
        templates.append(template)
    if not templates:
        raise StageFailure(StageReason.BAD_TEMPLATE, f"{name}: has no template: give one per line, with {PLACE}")
    return templates


def change(prompt: str, random: Random, templates: Sequence[str] = ()) -> str:
    """The prompt with one change: a typo, case, the final mark, a missing word, two swapped words, or a template."""
    changes = [_typo, _typo, _case, _mark, _without_a_word, _swapped]
    number = random.randrange(len(changes) + (2 if templates else 0))
    if number >= len(changes):
        return random.choice(templates).replace(PLACE, prompt)
    parts = re.split(r"(\s+)", prompt)
    words = [position for position, part in enumerate(parts) if _WORD.fullmatch(part)]
    return "".join(changes[number](parts, words, random)) if words and "```" not in prompt else prompt


def _typo(parts: list[str], words: list[int], random: Random) -> list[str]:
    """One word with a neighbouring key, a doubled or missing letter, or two swapped letters."""
    long = [position for position in words if len(parts[position]) > 3]
    if not long:
        return parts
    where = random.choice(long)
    word = parts[where]
    place = random.randrange(1, len(word) - 1)
    letter = word[place]
    slips = [letter * 2, "", *_neighbours(letter)]
    slip = random.randrange(len(slips) + 1)
    if slip == len(slips):
        new = word[: place - 1] + letter + word[place - 1] + word[place + 1 :]
    else:
        new = word[:place] + slips[slip] + word[place + 1 :]
    return [*parts[:where], new, *parts[where + 1 :]]


def _neighbours(letter: str) -> list[str]:
    """The keys next to, above and below a letter on a QWERTY keyboard."""
    for row, keys in enumerate(_KEYS):
        place = keys.find(letter.lower())
        if place >= 0:
            beside = [keys[p] for p in (place - 1, place + 1) if 0 <= p < len(keys)]
            others = [_KEYS[r] for r in (row - 1, row + 1) if 0 <= r < len(_KEYS)]
            return beside + [other[place] for other in others if place < len(other)]
    return []


def _case(parts: list[str], words: list[int], random: Random) -> list[str]:
    spell = random.choice([str.lower, str.upper, str.capitalize])
    chosen = words if spell is not str.capitalize else words[:1]
    return [spell(part) if position in chosen else part for position, part in enumerate(parts)]


def _mark(parts: list[str], words: list[int], random: Random) -> list[str]:
    last = len(parts) - 1
    if last not in words:
        return parts
    bare = parts[last].rstrip(_END)
    return [*parts[:last], bare if bare != parts[last] else bare + random.choice([".", "?", "!", "??", "..."])]


def _without_a_word(parts: list[str], words: list[int], random: Random) -> list[str]:
    inner = [position for position in words if 0 < position < len(parts) - 1]
    if len(words) < 5 or not inner:
        return parts
    where = random.choice(inner)
    return [*parts[: where - 1], *parts[where + 1 :]]


def _swapped(parts: list[str], words: list[int], random: Random) -> list[str]:
    pairs = [position for position in words if position + 2 in words]
    if len(words) < 4 or not pairs:
        return parts
    where = random.choice(pairs)
    return [*parts[:where], parts[where + 2], parts[where + 1], parts[where], *parts[where + 3 :]]


def _copies(row: Row, step: DataStep) -> int:
    """Number of new rows: the integer part of the fraction, and by the row's hash sometimes one more."""
    if is_blank(row.prompt) or row.answer is None:
        return 0
    whole, rest = divmod(step.fraction or 0.0, 1)
    return int(whole) + (_random(row, step, -1, 0).random() < rest)


def _changed(row: Row, templates: Sequence[str], random: Random) -> Row:
    """The row with a change in its last user message."""
    last = max(position for position, turn in enumerate(row.turns) if turn.role == "user")
    turn = replace(row.turns[last], content=change(row.turns[last].content, random, templates))
    turns: Iterable[Turn] = (*row.turns[:last], turn, *row.turns[last + 1 :])
    return replace(row, part="augment", turns=tuple(turns), place=row.place and f"changed copy of {row.place}")


def _random(row: Row, step: DataStep, number: int, attempt: int) -> Random:
    drawn = hashlib.sha256(f"{step.seed or 0}\0{row.key}\0{number}\0{attempt}".encode())
    return Random(drawn.digest())  # noqa: S311 - no secret


def _of_json(line: str) -> str | None:
    try:
        document = json.loads(line)
        json.dumps(document, ensure_ascii=False).encode()  # fails for half of a surrogate pair
    except (ValueError, RecursionError):
        return None
    template = document.get("template") if isinstance(document, dict) else None
    return template if isinstance(template, str) else None

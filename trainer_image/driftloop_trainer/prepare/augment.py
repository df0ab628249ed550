"""More training rows from those that are there: what users type is changed a little, what is answered never is. Pure.

A row's changes are drawn by seed and row alone, so the same data gives the same rows, and a larger fraction only adds.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from random import Random

from driftloop.api.finetunejob import DataStep
from driftloop.contract.reasons import StageReason
from driftloop.contract.text import side
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.divide import fenced

PLACE = "{prompt}"  # in a template
_ATTEMPTS = 5  # to draw a change that may be trained on
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)?[.,;:!?]*")  # no placeholder, number, path, tag, address or code
_END = ".!?"
_KEYS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")


@dataclass(frozen=True, slots=True)
class Fence:
    """The held-out rows, the similarity from which a row gives one of them away, and the sticky rule."""

    held_out: Sequence[Row]
    threshold: float
    salt: str
    percent: int


def augmented(rows: Sequence[Row], fence: Fence, step: DataStep, templates: Sequence[str]) -> list[Row]:
    """About `step.fraction` new rows a training row; its part is `augment`, its source that of its origin.

    None lies on the held-out side of the sticky rule, near a held-out row, or where another training row is.
    """
    keys = {row.key for row in rows}
    found: dict[str, Row] = {}
    for row in rows:
        for number in range(_copies(row, step)):
            for attempt in range(_ATTEMPTS):
                new = _changed(row, templates, _random(row, step, number, attempt))
                alike = new.key == row.key  # but for case and spacing: it lies where its origin does
                free = new.key not in keys and side(fence.salt, new.identity, fence.percent) == "train"
                if new.turns != row.turns and (alike or free) and new.identity not in found:
                    found[new.identity] = new
                    break
    return fenced(list(found.values()), fence.held_out, fence.threshold)


def read_templates(content: str, name: str) -> list[str]:
    """Templates of a file: one per line, or one a JSON line's `template`. Raises StageFailure."""
    found = []
    for number, line in enumerate(content.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip():
            continue
        template = _of_json(line) if name.endswith(".jsonl") else line.strip()
        if template is None or PLACE not in template:
            what = 'an object whose "template" has' if name.endswith(".jsonl") else "a template with"
            raise StageFailure(
                StageReason.BAD_TEMPLATE, f"{name}, line {number}: give {what} {PLACE} where the prompt goes"
            )
        found.append(template)
    if not found:
        raise StageFailure(StageReason.BAD_TEMPLATE, f"{name}: no template in it: give one per line, with {PLACE}")
    return found


def change(prompt: str, random: Random, templates: Sequence[str] = ()) -> str:
    """A prompt with one change: a typo, case, the final mark, a word less, two words swapped, or a template."""
    changes = [_typo, _typo, _case, _mark, _without_a_word, _swapped]
    number = random.randrange(len(changes) + (2 if templates else 0))
    if number >= len(changes):
        return random.choice(templates).replace(PLACE, prompt)
    parts = re.split(r"(\s+)", prompt)
    words = [position for position, part in enumerate(parts) if _WORD.fullmatch(part)]
    return "".join(changes[number](parts, words, random)) if words and "```" not in prompt else prompt


def _typo(parts: list[str], words: list[int], random: Random) -> list[str]:
    """A neighbouring key, a letter twice, a letter missing, or two in the wrong order."""
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
    """The keys beside and above or below a letter on a QWERTY keyboard."""
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
    """Whole copies by the fraction, and one more by the row's hash."""
    if not row.prompt.strip() or row.answer is None:
        return 0
    whole, rest = divmod(step.fraction or 0.0, 1)
    return int(whole) + (_random(row, step, -1, 0).random() < rest)


def _changed(row: Row, templates: Sequence[str], random: Random) -> Row:
    """The row with its last user's turn changed."""
    last = max(position for position, turn in enumerate(row.turns) if turn.role == "user")
    turn = replace(row.turns[last], content=change(row.turns[last].content, random, templates))
    turns: Iterable[Turn] = (*row.turns[:last], turn, *row.turns[last + 1 :])
    return replace(row, part="augment", turns=tuple(turns), place="")


def _random(row: Row, step: DataStep, number: int, attempt: int) -> Random:
    drawn = hashlib.sha256(f"{step.seed or 0}\0{row.key}\0{number}\0{attempt}".encode())
    return Random(drawn.digest())  # noqa: S311 - no secret


def _of_json(line: str) -> str | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    template = found.get("template") if isinstance(found, dict) else None
    return template if isinstance(template, str) else None

"""Turns a cell of a source into text. Pure."""

import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from driftloop.contract.messages import spelled


class Unreadable(ValueError):
    """Data that can't be read unambiguously. The message says where it is, what is wrong and how to fix it."""


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, or NaN, which pandas writes instead."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell_text(value: Any) -> str | None:
    """A cell as text for training: strings unchanged, numbers and booleans as in JSON, dates as in ISO 8601.

    None for an empty cell. Raises Unreadable for values without a unique text: objects, lists, infinities.
    """
    if is_nothing(value):
        return None
    match value:
        case str():
            return value
        case bool() | int():
            return json.dumps(value)
        case float() if math.isfinite(value):
            return json.dumps(value)
        case Decimal():
            return format(value, "f")
        case datetime() | date() | time():
            return value.isoformat()
        case _:
            raise Unreadable(f"{spelled(value)} is not a text: write it as the text to train on")

"""One cell of a source as text. Pure."""

import json
import math
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any

from driftloop.contract.messages import spelled


class Unreadable(ValueError):
    """Data that can't be read without doubt. The message says where it lies, what it is and what would do."""


def is_nothing(value: Any) -> bool:
    """Whether a cell is empty: null, or the NaN that pandas writes for it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell_text(value: Any) -> str | None:
    """A cell as it is trained on: text as it is, numbers and truth values as JSON spells them, dates as ISO 8601 does.

    None where nothing is there. Raises Unreadable for what has no one
    spelling: objects, lists, infinities.
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
    raise Unreadable(f"{spelled(value)} is not a text: write it as the text that is to be trained on")

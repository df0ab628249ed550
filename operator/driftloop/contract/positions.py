"""Whether a model's rotary positions depend on the longest row of a batch, for the plan and for the trainer. Pure."""

from collections.abc import Mapping
from typing import Any

_BY_LENGTH = ("dynamic", "longrope")  # rules of transformers that choose the frequencies anew in each forward pass


def position_scaling(rules: Any) -> str:
    """The rule if positions depend on the longest row, else nothing. `rules`: `rope_parameters` of a configuration.

    >>> position_scaling({"rope_type": "dynamic", "factor": 2.0})
    'dynamic'
    >>> position_scaling({"type": "llama3"})
    ''
    """
    known = rules if isinstance(rules, Mapping) else {}
    kind = str(known.get("rope_type", known.get("type", "")))
    return kind if kind in _BY_LENGTH else ""

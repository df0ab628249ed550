"""What a train pod does beside its steps, told before it may be killed: as its termination message, until its result.

A container that the kernel kills for lack of memory reports nothing any more. But what it could not hold matters: fewer
rows at a time change what steps need, and not what loading or export need.
"""

import json
import os
from pathlib import Path
from typing import Literal

from driftloop.contract.names import TERMINATION_ENV, TERMINATION_LOG

BesideSteps = Literal["loading", "export"]
BESIDE_STEPS: tuple[BesideSteps, ...] = ("loading", "export")
_KIND = "Phase"


def tell(phase: BesideSteps | None) -> None:
    """Replace what was told before; None: the workers do steps. A result or an error of this pod stays."""
    path = _path()
    try:
        if path.exists() and ((text := path.read_text()) == "" or phase_of(text) is not None):
            path.write_text("" if phase is None else json.dumps({"kind": _KIND, "phase": phase}))
    except OSError:
        return  # then nothing is known if the pod is killed


def told() -> BesideSteps | None:
    """What was told last."""
    try:
        return phase_of(_path().read_text())
    except OSError:
        return None


def phase_of(message: str) -> BesideSteps | None:
    """What a termination message tells of a pod that was killed; None if it is something else.

    >>> phase_of('{"kind": "Phase", "phase": "loading"}'), phase_of("Killed")
    ('loading', None)
    """
    try:
        document = json.loads(message)
    except ValueError:
        return None
    if not isinstance(document, dict) or document.get("kind") != _KIND:
        return None
    return known(document.get("phase"))


def known(phase: object) -> BesideSteps | None:
    """The phase of this name; None if there is none."""
    return next((name for name in BESIDE_STEPS if name == phase), None)


def _path() -> Path:
    return Path(os.environ.get(TERMINATION_ENV, TERMINATION_LOG))

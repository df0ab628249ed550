"""What every tracker does: it opens a run, and gets the rows of the steps in batches."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

Ending = Literal["FINISHED", "FAILED"]


class Row(NamedTuple):
    """What a step measured, and when, in Unix seconds. A value may be NaN."""

    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Training:
    """What a tracker shows of a training beside its curve. `uid`: the same after a restart of the pods."""

    uid: str
    name: str
    experiment: str
    settings: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Tracker(Protocol):
    """One tracker. Only one thread calls its methods, which may fail and are then called again later.

    Every call ends within seconds, or its thread is left behind at the end of the training.
    """

    name: str

    def open(self) -> None:
        """Begin the run, or continue the one of an earlier start. It is called until it succeeds, before the others."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows. A step may have been added by an earlier start already: it is not added twice."""

    def close(self, ending: Ending | None) -> None:
        """End the run. Without an ending it is left open: the training goes on in another pod."""


class Refused(Exception):
    """A tracker does not answer as it should. The message has no secret."""


_SECRET = re.compile(
    r"(//)[^/@\s]*@|((?:token|key|password|secret|authorization|basic|bearer)[=:\s]+)\S+", re.IGNORECASE
)


def described(error: BaseException) -> str:
    """What may be logged of an error of a tracker's client, which may have the credentials in its text.

    >>> described(ValueError("http://me:pass@host refused api_key=abc"))
    'ValueError: http://*@host refused api_key=*'
    """
    text = f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return _SECRET.sub(lambda match: f"{match[1] or match[2]}*" + ("@" if match[1] else ""), text)

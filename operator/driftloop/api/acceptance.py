"""What a service requires of the versions that it takes: a field of InferenceService, and a default of the operator."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal, Self

from pydantic import ConfigDict, Field, model_validator

from driftloop.api.base import ApiModel, Fraction, Name, cel, rule

_BOUNDS = (("maxDelta", "max_delta", "retention"), ("minGain", "min_gain", "target"), ("minimum", "minimum", "floor"))
_ALWAYS = "a floor compares with nothing, so that a first version can pass it too: remove onlyBesideStable"
_UNIQUE = "names of suites must be unique: merge the entries with the same name"
_UNNAMED = "at most one entry of each kind may have no name: merge them, or set name"


def _misplaced(field: str, kind: str) -> str:
    return f"{field} is for kind {kind}: remove it, or change kind"


class RequiredSuite(ApiModel):
    """A suite that a version must have passed."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            *(
                rule(f"!has(self.{field}) || self.kind == '{kind}'", _misplaced(field, kind), f".{field}")
                for field, _, kind in _BOUNDS
            ),
            rule("!self.onlyBesideStable || self.kind != 'floor'", _ALWAYS, ".onlyBesideStable"),
        )
    )
    kind: Literal["target", "retention", "floor"] = Field(description="Kind of the suite.")
    name: Name | None = Field(
        None, description="Name of the suite. If absent, one passed suite of the kind must be within all bounds."
    )
    min_items: int | None = Field(
        None, ge=1, le=100_000, description="Smallest number of items (n) on which the version was judged."
    )
    max_delta: Fraction | None = Field(None, description="retention: largest `delta` with which the suite was passed.")
    min_gain: Fraction | None = Field(
        None,
        description="target: the gain over the stable version must be larger. The lower bound of the gate counts.",
    )
    minimum: Fraction | None = Field(
        None, description="floor: the accuracy must reach this. The lower bound of the gate counts."
    )
    only_beside_stable: bool = Field(
        False,
        description="Require the suite only while a version serves. A target or retention suite compares with the "
        "stable version, so the first version of a family can't pass one.",
    )

    @model_validator(mode="after")
    def _bounds_fit_the_kind(self) -> Self:
        """The CEL rules, for a document that no API server has checked."""
        for field, attribute, kind in _BOUNDS:
            if getattr(self, attribute) is not None and self.kind != kind:
                raise ValueError(_misplaced(field, kind))
        if self.only_beside_stable and self.kind == "floor":
            raise ValueError(_ALWAYS)
        return self


class Acceptance(ApiModel):
    """What a version must have shown before the service takes it."""

    model_config = ConfigDict(
        json_schema_extra=cel(
            rule(
                "self.suites.all(a, !has(a.name) || self.suites.exists_one(b, has(b.name) && b.name == a.name))",
                _UNIQUE,
                ".suites",
            ),
            rule(
                "self.suites.all(a, has(a.name) || self.suites.exists_one(b, !has(b.name) && b.kind == a.kind))",
                _UNNAMED,
                ".suites",
            ),
        )
    )
    suites: list[RequiredSuite] = Field(
        default=[], max_length=16, description="Suites that the version must have passed. All of them are required."
    )
    same_engine: bool = Field(
        False,
        description="Whether the version must have been evaluated with the engine and settings of spec.engine, apart "
        "from its resources. A change of spec.engine then waits for a version that was evaluated with the new engine.",
    )
    max_age_seconds: int | None = Field(
        None, ge=60, le=315_360_000, description="Largest age of the version's evaluation in seconds, since it ended."
    )

    @model_validator(mode="after")
    def _suites_differ(self) -> Self:
        """The CEL rules, for a document that no API server has checked."""
        if _repeated(suite.name for suite in self.suites if suite.name is not None):
            raise ValueError(_UNIQUE)
        if _repeated(suite.kind for suite in self.suites if suite.name is None):
            raise ValueError(_UNNAMED)
        return self


def _repeated(words: Iterable[str]) -> bool:
    return any(count > 1 for count in Counter(words).values())

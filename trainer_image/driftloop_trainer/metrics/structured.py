"""json: the answer is valid JSON with the fields of the completion. Pure."""

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from driftloop.contract.text import normalise

_FENCE = re.compile(r"```[a-zA-Z]*\n(.*?)```", re.DOTALL)
_MISSING = object()


class BadSchema(ValueError):
    """A JSON Schema that can't be used."""


class Structure:
    """The expected form of answers: a JSON Schema and the fields to compare. Raises BadSchema."""

    def __init__(self, schema: dict[str, Any] | None, fields: Sequence[str] | None) -> None:
        self._fields = fields
        self._validator = Draft202012Validator(_checked(schema or {}), registry=Registry())

    def score(self, expected: str, answer: str) -> float:
        """The share of the compared fields that are equal; 0.0 if the answer isn't JSON or isn't valid."""
        value = parsed(answer)
        if value is _MISSING or not self._is_valid(value):
            return 0.0
        paths = self._paths(parsed(expected))
        right = parsed(expected)
        return sum(_equal(_at(right, path), _at(value, path)) for path in paths) / len(paths) if paths else 1.0

    def fault(self, expected: str) -> str | None:
        """Why no answer could be compared with this completion; None if one can."""
        if self._fields is not None and not self._fields:
            return None
        value = parsed(expected)
        if value is _MISSING:
            return "the completion is not JSON"
        if not self._is_valid(value):
            return "the completion is not valid against metric.schema"
        lost = next((path for path in self._paths(value) if _at(value, path) is _MISSING), None)
        return f"the completion has no field {'.'.join(lost)!r} of metric.fields" if lost else None

    def _is_valid(self, value: Any) -> bool:
        try:
            return bool(self._validator.is_valid(value))
        except RecursionError:
            return False

    def _paths(self, expected: Any) -> list[tuple[str, ...]]:
        """The paths to compare. The empty path is the whole value."""
        if self._fields is not None:
            return [tuple(field.split(".")) for field in self._fields]
        return [(name,) for name in expected] if isinstance(expected, dict) and expected else [()]


def parsed(text: str) -> Any:
    """The JSON value of a text, which may be in the text's only fenced block; `_MISSING` if it isn't JSON."""
    blocks = _FENCE.findall(text)
    try:
        return json.loads(blocks[0] if len(blocks) == 1 else text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return _MISSING


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _at(value: Any, path: Sequence[str]) -> Any:
    """The value at a path. A name selects a field of an object, a number an element of a list."""
    for name in path:
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        else:
            return _MISSING
    return value


def _equal(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal. Texts are normalised, 1 is 1.0, and true is not 1."""
    if isinstance(one, str) and isinstance(other, str):
        return normalise(one) == normalise(other)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def _checked(schema: dict[str, Any]) -> dict[str, Any]:
    try:
        Draft202012Validator.check_schema(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    except (SchemaError, RecursionError) as error:
        raise BadSchema(f"metric.schema is not a JSON Schema: {str(error).partition(chr(10))[0][:300]}") from error
    resolver = Registry().with_resource("", DRAFT202012.create_resource(schema)).resolver()
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise BadSchema(f"metric.schema has no {reference!r}, and other documents are not read") from error
    return schema


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        yield from (schema[key] for key in ("$ref", "$dynamicRef") if isinstance(schema.get(key), str))
        schema = list(schema.values())
    if isinstance(schema, list):
        for part in schema:
            yield from _references(part)

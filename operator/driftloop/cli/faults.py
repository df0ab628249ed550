"""What is wrong with a manifest: the field, the problem, and the fix. Pure.

pydantic finds wrong values, and the schema of the CRD finds fields that do not exist. Rules across fields are in the
CRD as CEL, which only the API server runs: `driftloop validate --server` asks it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from driftloop.api.base import API_VERSION
from driftloop.cli.crds import KINDS, NAME_RULE, Kind, schema_of

Json = dict[str, Any]
BY_KIND: dict[str, Kind] = {kind.KIND: kind for kind in KINDS}
NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
MAX_NAME = 40
MAX_HINT = 200  # characters of a field's description in a fix


@dataclass(frozen=True)
class Fault:
    """One fault of a manifest."""

    field: str  # path such as spec.data.sources[0].uri
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" + (f". {self.fix}" if self.fix else "")

    def dump(self) -> Json:
        """The fault for JSON output."""
        return asdict(self)


def faults_of(document: Json) -> list[Fault]:
    """All faults of an object of one of Driftloop's kinds that can be found without a cluster."""
    kind = BY_KIND[document["kind"]]
    if (version := document.get("apiVersion")) != API_VERSION:
        return [Fault("apiVersion", f"is {version!r}, but must be {API_VERSION}", "Correct it")]
    schema = schema_of(kind)
    faults = [*_name(document), *_unknown(document.get("spec"), schema["properties"]["spec"], "spec")]
    try:
        kind.model_validate(document)
    except ValidationError as error:
        faults += [_wrong(entry, schema) for entry in error.errors()]
    return faults


def from_errors(error: ValidationError) -> list[Fault]:
    """The faults in pydantic's error about a document without a schema."""
    return [Fault(path_text(entry["loc"]), entry["msg"], "") for entry in error.errors()]


def path_text(path: Sequence[int | str]) -> str:
    """A path as kubectl writes it.

    >>> path_text(("spec", "data", "sources", 0, "uri"))
    'spec.data.sources[0].uri'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _name(document: Json) -> Iterator[Fault]:
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    if not name:
        yield Fault("metadata.name", "is missing", "Add a name")
    elif not isinstance(name, str) or len(name) > MAX_NAME or not NAME.fullmatch(name):
        yield Fault("metadata.name", f"{name!r} is not allowed", NAME_RULE["message"])


def _unknown(value: Any, schema: Json, path: str) -> Iterator[Fault]:
    """Fields that the API does not have: the API server drops them, or refuses them if it is strict."""
    if isinstance(value, list) and "items" in schema:
        for number, entry in enumerate(value):
            yield from _unknown(entry, schema["items"], f"{path}[{number}]")
    fields = schema.get("properties")
    if not isinstance(value, dict) or fields is None:
        return
    for name, entry in value.items():
        if name in fields:
            yield from _unknown(entry, fields[name], f"{path}.{name}")
        elif entry is not None:
            yield Fault(f"{path}.{name}", "unknown field", _spelling(str(name), list(fields)))


def _spelling(name: str, known: list[str]) -> str:
    """A field that was probably meant. Names in snake_case are those of Python."""
    camel = re.sub("_([a-z])", lambda letter: letter.group(1).upper(), name)
    close = [camel] if camel in known else get_close_matches(name, known, n=1)
    return f"Did you mean {close[0]}?" if close else f"Remove it, or use one of {', '.join(sorted(known))}"


def _wrong(entry: ErrorDetails, schema: Json) -> Fault:
    """A fault that pydantic found. The fix is the field's description in the CRD."""
    known = _schema_at(schema, entry["loc"])
    field = path_text(entry["loc"])
    match entry["type"]:
        case "missing":
            return Fault(field, "is required", _sentence("Add it", known))
        case "literal_error":
            return Fault(field, f"is {entry['input']!r}", f"Use {entry['ctx']['expected']}")
        case "string_pattern_mismatch":
            return Fault(field, f"{entry['input']!r} is not allowed", _sentence("Correct it", known))
        case _:
            return Fault(field, entry["msg"], _sentence("Correct it", known))


def _sentence(start: str, schema: Json) -> str:
    """The fix, with the first words of the field's description."""
    description = schema.get("description")
    return f"{start}: {description[:MAX_HINT].rstrip()}" if description else start


def _schema_at(schema: Json, path: Sequence[int | str]) -> Json:
    """The schema of the field at a path; empty where the schema does not go."""
    for part in path:
        inner = schema.get("items") if isinstance(part, int) else schema.get("properties", {}).get(part)
        if not isinstance(inner, dict):
            return {}
        schema = inner
    return schema

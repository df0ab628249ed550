"""What differs between two versions: gates, data, settings and artefact. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from driftloop.api.modelversion import Gate, ModelVersion
from driftloop.cli.ancestry import Generation, data_of, rows_text
from driftloop.controller.vocabulary.objects import field

Section = Literal["gates", "data", "settings", "artefact"]
SECTIONS: tuple[Section, ...] = ("gates", "data", "settings", "artefact")
UNKNOWN = "unknown: the job was deleted"
ABSENT = "-"


@dataclass(frozen=True)
class Change:
    """A field that differs."""

    section: Section
    field: str
    before: str
    after: str

    def dump(self) -> dict[str, str]:
        """The change for JSON output."""
        return asdict(self)


def changes(before: Generation, after: Generation) -> list[Change]:
    """All differences, by section."""
    described = [_described(generation) for generation in (before, after)]
    return [
        Change(section, name, one.get(name, ABSENT), other.get(name, ABSENT))
        for section in SECTIONS
        for one, other in [(described[0][section], described[1][section])]
        for name in dict.fromkeys((*one, *other))
        if one.get(name, ABSENT) != other.get(name, ABSENT)
    ]


def text(changed: list[Change], before: str, after: str) -> str:
    """The differences for people."""
    return "\n".join(_lines(changed, before, after)) if changed else f"{before} and {after} do not differ"


def _lines(changed: list[Change], before: str, after: str) -> Iterator[str]:
    for section in SECTIONS:
        here = [change for change in changed if change.section == section]
        if here:
            yield f"{section}:"
        for change in here:
            yield f"  {change.field}"
            yield f"    {before}: {change.before}"
            yield f"    {after}: {change.after}"


def _described(generation: Generation) -> dict[Section, dict[str, str]]:
    assert generation.version is not None
    version = ModelVersion.model_validate(generation.version)
    lineage, data = version.spec.lineage, data_of(generation.job)
    spec = field(generation.job, "spec") or {}
    settings = {name: spec[name] for name in spec if name != "output"} | {"evaluation": version.spec.evaluation.dump()}
    return {
        "gates": {gate.name: gate_text(gate) for gate in version.status.gates},
        "data": {
            "uri": lineage.data_uri or ABSENT,
            "digest": lineage.data_digest or ABSENT,
            "rows": rows_text(data) if data else UNKNOWN if lineage.job else ABSENT,
        },
        "settings": dict(flat(settings)) | ({} if generation.job or not lineage.job else {"job": UNKNOWN}),
        "artefact": {
            "uri": version.spec.artefact.uri,
            "digest": version.spec.artefact.digest,
            "bases": ", ".join(version.spec.artefact.bases) or ABSENT,
            "trained from": lineage.parent or ABSENT,
            "base digest": lineage.base_digest or ABSENT,
            "tokenizer digest": lineage.tokenizer_digest or ABSENT,
            "trainer image": lineage.trainer_image or ABSENT,
        },
    }


def gate_text(gate: Gate) -> str:
    """The result of a gate in one line."""
    parts: list[str] = [gate.verdict]
    if gate.value is not None:
        parts.append(f"{gate.value} of 1" + (f", stable {gate.baseline}" if gate.baseline is not None else ""))
    if gate.difference is not None:
        parts.append(f"difference {gate.difference} [{gate.lower or '?'}, {gate.upper or '?'}]")
    if gate.anchor is not None:
        anchor = gate.anchor
        parts.append(
            f"since {anchor.version} {anchor.difference or '?'} [{anchor.lower or '?'}, …], at least "
            f"{anchor.left or '?'} of {anchor.total_delta} left"
        )
    if gate.items is not None:
        parts.append(f"n {gate.items}")
    return ", ".join(parts)


def flat(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The values of a JSON document by path. Entries of lists are named by their name, if they have one.

    >>> dict(flat({"a": [{"name": "x", "b": 1}], "c": {}}))
    {'a[x].name': 'x', 'a[x].b': '1'}
    """
    match value:
        case Mapping():
            for name, entry in value.items():
                yield from flat(entry, f"{path}.{name}".lstrip("."))
        case list():
            for number, entry in enumerate(value):
                name = entry.get("name", number) if isinstance(entry, dict) else number
                yield from flat(entry, f"{path}[{name}]")
        case _:
            yield path, str(value)

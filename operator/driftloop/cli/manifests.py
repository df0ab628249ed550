"""Reads manifests from files and standard input."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from driftloop.cli.faults import BY_KIND

Json = dict[str, Any]
STANDARD_INPUT = "-"


class BadInput(ValueError):
    """A file or an option that can't be used. The message names the field and the fix."""


@dataclass(frozen=True)
class Manifest:
    """One object of one of Driftloop's kinds, and where it was read."""

    source: str  # the file's name
    document: Json

    @property
    def kind(self) -> str:
        """Kind of the object."""
        return str(self.document["kind"])

    @property
    def name(self) -> str:
        """Name of the object; empty if it has none."""
        metadata = self.document.get("metadata")
        return str(metadata.get("name") or "") if isinstance(metadata, dict) else ""

    @property
    def title(self) -> str:
        """The object in messages: file, kind and name."""
        return f"{self.source}: {self.kind} {self.name}".rstrip()


def read_text(name: str) -> str:
    """The content of a file; of standard input for `-`. Raises BadInput."""
    try:
        return sys.stdin.read() if name == STANDARD_INPUT else Path(name).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{source_name(name)}: {error}") from error


def source_name(name: str) -> str:
    """The file in messages."""
    return "standard input" if name == STANDARD_INPUT else name


def documents(text: str, source: str) -> list[Json]:
    """The objects in a YAML or JSON text, also those in a List. Raises BadInput."""
    try:
        parsed = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise BadInput(f"{source}: not YAML: {error}") from error
    if any(not isinstance(document, dict) for document in parsed):
        raise BadInput(f"{source}: each document must be an object with apiVersion, kind and metadata")
    return [entry for document in parsed for entry in _entries(document)]


def manifests(names: Sequence[str]) -> list[Manifest]:
    """The objects of Driftloop's kinds in files and folders. Other kinds are left out. Raises BadInput."""
    return [
        Manifest(source_name(name), document)
        for name in _files(names)
        for document in documents(read_text(name), source_name(name))
        if document.get("kind") in BY_KIND
    ]


def one_job(names: Sequence[str]) -> Manifest:
    """The one FineTuneJob in the files. Raises BadInput if there is none, or several."""
    jobs = [manifest for manifest in manifests(names) if manifest.kind == "FineTuneJob"]
    if len(jobs) != 1:
        where = ", ".join(map(source_name, names))
        raise BadInput(f"{where}: has {len(jobs)} objects of kind FineTuneJob, but must have exactly one")
    return jobs[0]


def _entries(document: Json) -> Iterator[Json]:
    items = document.get("items")
    if document.get("kind") == "List" and isinstance(items, list):
        yield from (item for item in items if isinstance(item, dict))
    else:
        yield document


def _files(names: Sequence[str]) -> Iterator[str]:
    """The files, and the YAML and JSON files in folders, sorted."""
    for name in names:
        if name != STANDARD_INPUT and (folder := Path(name)).is_dir():
            yield from (str(path) for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".yml", ".json"))
        else:
            yield name

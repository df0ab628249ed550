"""Reads the texts of `--reference`, or a profile that training has written beside a model."""

import csv
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, assert_never

from driftloop.cli.detecting.formats import KNOWN, parse
from driftloop.cli.detecting.lines import lines
from driftloop.cli.detecting.requests import Other, Requests, Unreadable
from driftloop.cli.detecting.stream import SHARED
from driftloop.cli.manifests import BadInput
from driftloop.contract.textstats import MAX_CHARACTERS, PROFILE, build_profile, parse_profile

MAX_TEXTS = 200_000  # enough for the vocabulary of a profile
FEWEST_TEXTS = 100
_COLUMNS = ("text", "prompt")


def profile(path: Path) -> dict[str, Any]:
    """The profile of a reference file. Raises BadInput."""
    if path.is_dir():
        path = path / PROFILE
    if path.suffix == ".json":
        return _written(path)
    if path.suffix in (".parquet", ".arrow", ".gz", ".zst"):
        raise BadInput(f"--reference: {path}: {path.suffix} is not read. Use .jsonl or .csv, or a log")
    texts = list(_csv_texts(path) if path.suffix == ".csv" else _line_texts(path))
    if len(texts) < FEWEST_TEXTS:
        raise BadInput(
            f"--reference: {path} has {len(texts)} texts, but a profile needs {FEWEST_TEXTS}. It can have: {KNOWN}"
        )
    return build_profile(texts, shared=SHARED)


def digest(path: Path) -> str:
    """The SHA-256 of a reference. Raises BadInput."""
    try:
        with (path / PROFILE if path.is_dir() else path).open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"--reference: {path}: {error.strerror}") from error


def _written(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text())
        found = parse_profile(document)
    except OSError as error:
        raise BadInput(f"--reference: {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInput(f"--reference: {path} is not a {PROFILE} of a model. Texts are read from .jsonl") from error
    if found.rows == 0:
        raise BadInput(f"--reference: {path} is a profile of no rows, so nothing is known. Use texts as reference")
    return dict(document)


def _line_texts(path: Path) -> Iterator[str]:
    today, number = datetime.now(UTC), 0
    for line in lines([str(path)]):
        found = parse(line.content, today) if isinstance(line.content, str) else line.content
        match found:
            case Requests(requests):
                for request in requests[: MAX_TEXTS - number]:
                    number += 1
                    yield request.text[:MAX_CHARACTERS]
            case Other() | Unreadable():
                pass
            case never:
                assert_never(never)
        if number >= MAX_TEXTS:
            return


def _csv_texts(path: Path) -> Iterator[str]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            column = next((name for name in _COLUMNS if name in (rows.fieldnames or ())), None)
            if column is None:
                raise BadInput(f"--reference: {path} has no column {' or '.join(_COLUMNS)}")
            for number, row in enumerate(rows):
                if number == MAX_TEXTS:
                    return
                if text := row[column]:
                    yield text[:MAX_CHARACTERS]
    except OSError as error:
        raise BadInput(f"--reference: {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"--reference: {path} is not CSV in UTF-8") from error

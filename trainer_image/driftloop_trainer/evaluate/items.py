"""The questions of a suite, from its file."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftloop.api.base import SuiteSpec
from driftloop.contract.manifest import file_sha256
from driftloop.contract.storage import fetch_file
from driftloop.contract.text import row_key
from driftloop_trainer.failure import StageFailure


@dataclass(frozen=True)
class Item:
    """One question with its one right answer. Items of a cluster are alike."""

    id: str
    prompt: str
    completion: str
    cluster: str


def load_items(suite: SuiteSpec, scratch: Path) -> list[Item]:
    """At most `maxItems` of the suite's items, verified against its digest.

    Beyond that the ones with the smallest hashes are taken: a random sample, and the same for every version.
    Raises StageFailure that names the suite, the line and the fix; StorageError when the file can't be read.
    """
    if suite.uri is None:
        raise StageFailure("NoItems", f"suite {suite.name}: it has no uri: give it the file with its items")
    path = fetch_file(suite.uri, scratch)
    digest = f"sha256:{file_sha256(path)}"
    if suite.digest is not None and suite.digest != digest:
        message = f"suite {suite.name}: {suite.uri} has {digest}, expected {suite.digest}: the file was changed"
        raise StageFailure("DigestMismatch", message)
    try:
        items = parse_items(path.read_text(encoding="utf-8-sig"), is_csv=suite.uri.endswith(".csv"))
    except (ValueError, csv.Error) as error:
        raise StageFailure("BadItems", f"suite {suite.name}: {suite.uri}: {error}") from error
    if not items:
        raise StageFailure("NoItems", f"suite {suite.name}: {suite.uri} has no items")
    return sorted(items, key=lambda item: (row_key(item.prompt), item.id))[: suite.max_items]


def parse_items(text: str, *, is_csv: bool) -> list[Item]:
    """Items of CSV or JSON lines: prompt and completion, and if given id and cluster. Raises ValueError.

    Without an id it is the line; without a cluster the same prompt makes one.
    """
    rows = _csv_rows(text) if is_csv else _json_rows(text)
    return [_item(line, row) for line, row in rows]


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        yield reader.line_num, {key: value for key, value in row.items() if key is not None}


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): it also cuts at U+2028, which JSON leaves inside its strings.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"line {number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"line {number} is not a JSON object")
            yield number, row


def _item(line: int, row: dict[str, Any]) -> Item:
    for field in ("prompt", "completion"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise ValueError(f"line {line}: {field} must be a text that isn't empty; the columns are {', '.join(row)}")
    prompt = row["prompt"]
    return Item(
        id=str(row.get("id") or line),
        prompt=prompt,
        completion=row["completion"],
        cluster=str(row.get("cluster") or row_key(prompt)),
    )

"""Items of the evaluation suites, from held-out rows."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from driftloop.api.base import SuiteSpec
from driftloop.contract.result import ITEMS_FOLDER, SuiteItems
from driftloop_trainer.prepare.rows import Row


def suite_items(rows: Iterable[Row], suite: SuiteSpec) -> list[dict[str, str]]:
    """Questions with one known answer each, at most `maxItems`, in the order of their hash. Pure.

    A hash's order is a random sample that the next job draws alike, so versions are compared on the same items.
    """
    items: dict[str, dict[str, str]] = {}
    for row in rows:
        if row.part == suite.items and row.completion is not None and row.kind == "chat" and not row.history:
            item = {
                "id": row.key,
                "prompt": row.prompt,
                "completion": row.completion,
                "cluster": row.cluster or row.key,
            }
            items.setdefault(row.key, item)
    return [items[key] for key in sorted(items)[: suite.max_items]]


def write_suite(items: list[dict[str, str]], suite: SuiteSpec, folder: Path) -> SuiteItems:
    """Write `heldout/<name>.jsonl` below `folder`."""
    path = folder / ITEMS_FOLDER / f"{suite.name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    content = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items).encode()
    path.write_bytes(content)
    return SuiteItems(
        name=suite.name,
        digest=f"sha256:{hashlib.sha256(content).hexdigest()}",
        items=len(items),
    )

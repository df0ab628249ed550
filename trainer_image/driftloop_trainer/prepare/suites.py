"""Items of the evaluation suites, from held-out rows."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from driftloop.api.base import SuiteSpec
from driftloop.contract.bounds import least_items
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import ITEMS_FOLDER, SuiteItems
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import as_document, is_item, load_items
from driftloop_trainer.data.rows import Row


def suite_items(rows: Iterable[Row], suite: SuiteSpec) -> list[dict[str, Any]]:
    """Questions with one known answer each, at most `maxItems`, in the order of their hash. Pure.

    A hash's order is a random sample that the next job draws alike, so versions are compared on the same items.
    """
    items: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.part == suite.items and is_item(row):
            items.setdefault(row.key, as_document(row))
    return [items[key] for key in sorted(items)[: suite.max_items]]


def check_suites(suites: Iterable[SuiteSpec], held_out: list[Row], scratch: Path) -> None:
    """Raises StageFailure for a suite whose items can show nothing: better now than when a GPU has trained.

    Also for items files that don't read, as the evaluation would; StorageError where they can't be had.
    """
    for suite in suites:
        if suite.items is None:
            clusters = [item.cluster for item in load_items(suite, scratch)]
        else:
            clusters = [item["cluster"] for item in suite_items(held_out, suite)]
        refuse_too_short(suite, len(clusters), len(set(clusters)))


def refuse_too_short(suite: SuiteSpec, items: int, clusters: int) -> None:
    """Raises StageFailure where so many items, in so many independent clusters, can't let the suite's gate pass. Pure.

    Items of a cluster count as one: they succeed and fail together.
    """
    least = least_items(suite)
    bounds = {"floor": f"minimum {suite.minimum:g}", "target": f"minGain {suite.min_gain:g}"}
    bound = bounds.get(suite.kind, f"delta {suite.delta:g}")
    if least is None:
        raise StageFailure(
            StageReason.SUITE_TOO_SHORT, f"suite {suite.name}: no number of items can show {bound}: state a laxer one"
        )
    if clusters >= least:
        return
    counted = f"{items} items" if clusters == items else f"{items} items in {clusters} clusters"
    raise StageFailure(
        StageReason.SUITE_TOO_SHORT,
        f"suite {suite.name}: {counted}, and its gate ({suite.kind}, {bound}) can pass with {least} "
        f"independent ones at least: {_more_items(suite, least)}, or state a laxer one",
    )


def _more_items(suite: SuiteSpec, least: int) -> str:
    if suite.max_items < least:
        return f"raise maxItems, {suite.max_items} now"
    if suite.items is None:
        return f"add items to {suite.uri}"
    return f"give more rows of {suite.items} with answers, raise data.heldOutPercent, or give items of your own by uri"


def write_suite(items: list[dict[str, Any]], suite: SuiteSpec, folder: Path) -> SuiteItems:
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

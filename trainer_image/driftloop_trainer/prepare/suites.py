"""Builds and checks the items of evaluation suites."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from driftloop.api.suite import SuiteSpec
from driftloop.contract.bounds import least_items
from driftloop.contract.reasons import StageReason
from driftloop.contract.result import ITEMS_FOLDER, SuiteItems
from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.items import as_document, is_item, load_items
from driftloop_trainer.data.rows import Row
from driftloop_trainer.metrics.scoring import scorer


def suite_items(rows: Iterable[Row], suite: SuiteSpec) -> list[dict[str, Any]]:
    """At most `maxItems` questions, each with one known answer, in the order of their hash. Pure.

    By hash, the next job selects the same random sample, so that versions are compared on the same items.
    """
    items: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.part == suite.items and is_item(row):
            items.setdefault(row.key, as_document(row))
    return [items[key] for key in sorted(items)[: suite.max_items]]


def check_suites(suites: Iterable[SuiteSpec], held_out: list[Row], scratch: Path) -> None:
    """Check that each suite can be read, measured and has enough items, before a GPU is used for training.

    Raises StageFailure, or StorageError if a file can't be fetched.
    """
    for suite in suites:
        metric = scorer(suite)
        if suite.items is None:
            items = [(item.id, item.completion, item.cluster) for item in load_items(suite, scratch)]
        else:
            items = [(item["id"], item["completion"], item["cluster"]) for item in suite_items(held_out, suite)]
        for name, completion, _ in items:
            metric.check(completion, name)
        refuse_too_short(suite, len(items), len({cluster for _, _, cluster in items}))


def refuse_too_short(suite: SuiteSpec, items: int, clusters: int) -> None:
    """Raise StageFailure if the suite's gate can never pass with so few independent clusters of items. Pure.

    The items of a cluster count as one, as they tend to succeed and fail together.
    """
    least = least_items(suite)
    bounds = {"floor": f"minimum {suite.minimum:g}", "target": f"minGain {suite.min_gain:g}"}
    bound = bounds.get(suite.kind, f"delta {suite.delta:g}")
    if least is None:
        raise StageFailure(
            StageReason.SUITE_TOO_SHORT, f"suite {suite.name}: no number of items can prove {bound}: relax it"
        )
    if clusters >= least:
        return
    counted = f"{items} items" if clusters == items else f"{items} items in {clusters} clusters"
    raise StageFailure(
        StageReason.SUITE_TOO_SHORT,
        f"suite {suite.name}: has {counted}, but its gate ({suite.kind}, {bound}) can pass only with at least {least} "
        f"independent items: {_more_items(suite, least)}, or relax the gate",
    )


def _more_items(suite: SuiteSpec, least: int) -> str:
    if suite.max_items < least:
        return f"raise maxItems (now {suite.max_items})"
    if suite.items is None:
        return f"add items to {suite.uri}"
    return f"add rows with answers to {suite.items}, raise data.heldOutPercent, or give your own items with uri"


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
        clusters=len({item["cluster"] for item in items}),
    )

"""The four pools of rows that keep the demo honest, and the check that they do not touch.

training: what a job is given as its data. traffic: what users ask, and may correct. report: what the final table is
made of; no pod sees it. The gates' pool is not cut here: the sticky held-out rule takes it out of training and
feedback, and the pods' own records of what they trained on are checked against it.
"""

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.corpus import BICYCLE, SHOP, Row, rows
from driftloop.contract.text import row_key, side

HELD_OUT_PERCENT = 10  # as in examples/support-desk
FAMILY = "support-desk"
HELD_OUT_SALT = "support-base"  # the family that the ancestry begins with


@dataclass(frozen=True)
class Pools:
    """Rows by use. `shifted` is the domain that appears later."""

    training: list[Row]
    traffic: list[Row]
    shifted_traffic: list[Row]
    report: list[Row]
    shifted_report: list[Row]


def generated(per_intent: int, seed: int = 7) -> Pools:
    """Pools of the repository's own corpus: the shop, and the bicycle as the shift."""
    shop, bicycle = rows(SHOP, per_intent, seed), rows(BICYCLE, per_intent, seed + 1)
    a, b = len(shop) * 55 // 100, len(shop) * 85 // 100
    c = len(bicycle) * 75 // 100
    return _distinct(Pools(shop[:a], shop[a:b], bicycle[:c], shop[b:], bicycle[c:]))


def from_folder(folder: Path, shift: Path | None, seed: int = 7) -> Pools:
    """Pools of the user's own train.csv and test.csv (columns text and category).

    Without `shift` the later third of the categories is held back as the shift; with it, that folder's rows are.
    Raises ValueError naming the file and what is wrong with it.
    """
    train, test = _read(folder / "train.csv"), _read(folder / "test.csv")
    if shift is None:
        categories = list(dict.fromkeys(sorted(row.category for row in train)))
        old = set(categories[: len(categories) * 2 // 3])
        later = [row for row in train if row.category not in old]
        later_test = [row for row in test if row.category not in old]
        train = [row for row in train if row.category in old]
        test = [row for row in test if row.category in old]
    else:
        later, later_test = _read(shift / "train.csv"), _read(shift / "test.csv")
    rng = random.Random(seed)
    for part in (train, test, later, later_test):
        rng.shuffle(part)
    cut = len(train) * 95 // 100
    return _distinct(Pools(train[:cut], train[cut:], later, test, later_test))


def _read(path: Path) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            missing = {"text", "category"} - set(reader.fieldnames or ())
            if missing:
                raise ValueError(
                    f"{path}: no column {' and '.join(sorted(missing))}; its columns are {reader.fieldnames}"
                )
            found = [Row(line["text"].strip(), line["category"].strip()) for line in reader]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not found:
        raise ValueError(f"{path}: no rows")
    return found


def _distinct(pools: Pools) -> Pools:
    """Each row in one pool only: the report's pool has first choice, then training, then traffic."""
    seen: set[str] = set()

    def fresh(part: list[Row]) -> list[Row]:
        found = []
        for row in part:
            key = row_key(row.text)
            if key not in seen:
                seen.add(key)
                found.append(row)
        return found

    report, shifted_report = fresh(pools.report), fresh(pools.shifted_report)
    training = fresh(pools.training)
    return Pools(training, fresh(pools.traffic), fresh(pools.shifted_traffic), report, shifted_report)


def is_held_out(row: Row) -> bool:
    """Whether the ancestry's sticky rule keeps the row out of training, for ever."""
    return side(HELD_OUT_SALT, row.text, HELD_OUT_PERCENT) == "heldOut"


def account(pools: Pools, trained: Iterable[str], asked_by_gates: Iterable[str]) -> dict[str, object]:
    """Sizes and overlaps. `trained` and `asked_by_gates` are row keys as the pods recorded them.

    A row of training or traffic that the sticky rule holds out counts to the gates' pool and to no other.
    """
    sides = {
        name: [row_key(row.text) for row in part if not is_held_out(row)]
        for name, part in {
            "training": pools.training,
            "trafficAndFeedback": pools.traffic + pools.shifted_traffic,
        }.items()
    }
    keys: dict[str, set[str]] = {name: set(part) for name, part in sides.items()}
    keys["gates"] = set(asked_by_gates)
    keys["report"] = {row_key(row.text) for row in pools.report + pools.shifted_report}
    used = set(trained)
    names = list(keys)
    overlaps = {f"{a}/{b}": len(keys[a] & keys[b]) for i, a in enumerate(names) for b in names[i + 1 :]}
    overlaps |= {"trained/gates": len(used & keys["gates"]), "trained/report": len(used & keys["report"])}
    return {"rows": {name: len(part) for name, part in keys.items()} | {"trained": len(used)}, "overlaps": overlaps}

"""The four separate pools of rows, and the check that they don't overlap.

training: data of the jobs. traffic: requests of users, which may be corrected. report: rows for the final table; no pod
sees them. The fourth pool, the gates', is not split off here: the held-out rule removes it from training and feedback.
The pods record the rows that they trained on, and these records are compared with it.
"""

import csv
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from demo.corpus import BICYCLE, SHOP, Row, rows
from driftloop.contract.text import row_key, side

HELD_OUT_PERCENT = 20  # as in examples/support-desk
FAMILY = "support-desk"
HELD_OUT_SALT = "support-base"  # family of the first version of the ancestry


@dataclass(frozen=True)
class Pools:
    """Rows by use. `shifted` is the domain that appears later."""

    training: list[Row]
    traffic: list[Row]
    shifted_traffic: list[Row]
    report: list[Row]
    shifted_report: list[Row]


def generated(per_intent: int, seed: int = 7) -> Pools:
    """Pools of the generated corpus: the shop, and the bicycle as the shift."""
    shop, bicycle = rows(SHOP, per_intent, seed), rows(BICYCLE, per_intent, seed + 1)
    a, b = len(shop) * 55 // 100, len(shop) * 85 // 100
    c = len(bicycle) * 75 // 100
    return _distinct(Pools(shop[:a], shop[a:b], bicycle[:c], shop[b:], bicycle[c:]))


def from_folder(folder: Path, shift: Path | None, seed: int = 7) -> Pools:
    """Pools of the user's train.csv and test.csv (columns text and category).

    Without `shift` the last third of the categories is held back as the shift. Otherwise that folder's rows are the
    shift. Raises ValueError that names the file and the error.
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
            loaded = [Row(line["text"].strip(), line["category"].strip()) for line in reader]
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error
    if not loaded:
        raise ValueError(f"{path}: no rows")
    return loaded


def _distinct(pools: Pools) -> Pools:
    """Keep each row in one pool only: the report's pool comes first, then training, then traffic."""
    seen: set[str] = set()

    def fresh(part: list[Row]) -> list[Row]:
        kept = []
        for row in part:
            key = row_key(row.text)
            if key not in seen:
                seen.add(key)
                kept.append(row)
        return kept

    report, shifted_report = fresh(pools.report), fresh(pools.shifted_report)
    training = fresh(pools.training)
    return Pools(training, fresh(pools.traffic), fresh(pools.shifted_traffic), report, shifted_report)


def is_held_out(row: Row) -> bool:
    """Whether the ancestry's held-out rule keeps the row out of training."""
    return side(HELD_OUT_SALT, row.text, HELD_OUT_PERCENT) == "heldOut"


def account(pools: Pools, trained: Iterable[str], asked_by_gates: Iterable[str]) -> dict[str, object]:
    """Sizes and overlaps of the pools. `trained` and `asked_by_gates` are row keys that the pods recorded.

    A row of training or traffic that is held out counts only for the gates' pool.
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

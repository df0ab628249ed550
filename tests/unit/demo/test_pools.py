from pathlib import Path

import pytest

from demo.pools import HELD_OUT_PERCENT, HELD_OUT_SALT, account, from_folder, generated
from driftloop.contract.text import row_key, side


def write(folder: Path, name: str, rows: list[tuple[str, str]]) -> None:
    folder.mkdir(exist_ok=True)
    lines = "".join(f'"{text}",{category}\n' for text, category in rows)
    (folder / name).write_text("text,category\n" + lines)


def rows(prefix: str, categories: str, count: int) -> list[tuple[str, str]]:
    return [(f"{prefix} {category} {i}", category) for category in categories for i in range(count)]


def test_the_generated_pools_share_no_row() -> None:
    pools = generated(40)
    keys = [{row_key(row.text) for row in part} for part in vars(pools).values()]
    assert sum(len(part) for part in keys) == len(set.union(*keys))
    assert all(keys)


def test_the_later_third_of_the_categories_is_held_back(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", rows("train", "abcdef", 20))
    write(tmp_path, "test.csv", rows("test", "abcdef", 5))
    pools = from_folder(tmp_path, None)
    assert {row.category for row in pools.training + pools.traffic + pools.report} == set("abcd")
    assert {row.category for row in pools.shifted_traffic + pools.shifted_report} == set("ef")


def test_a_second_folder_is_the_shift(tmp_path: Path) -> None:
    for name, categories in (("old", "abc"), ("new", "xyz")):
        write(tmp_path / name, "train.csv", rows("train", categories, 10))
        write(tmp_path / name, "test.csv", rows("test", categories, 5))
    pools = from_folder(tmp_path / "old", tmp_path / "new")
    assert {row.category for row in pools.training} == set("abc")
    assert {row.category for row in pools.shifted_traffic} == set("xyz")


def test_a_row_of_the_report_is_nowhere_else(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", [*rows("train", "abc", 20), ("the same", "a")])
    write(tmp_path, "test.csv", [*rows("test", "abc", 5), ("The  same", "a")])
    pools = from_folder(tmp_path, None)
    assert "the same" not in {row.text for row in pools.training + pools.traffic}


@pytest.mark.parametrize(
    ("text", "message"), [("a,b\n1,2\n", "no column category and text"), ("text,category\n", "no rows")]
)
def test_a_file_that_will_not_do_is_named_with_its_fault(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(ValueError, match=rf"train\.csv: {message}"):
        from_folder(tmp_path, None)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"train\.csv: No such file"):
        from_folder(tmp_path, None)


def test_the_account_counts_a_row_that_was_trained_on_and_asked_by_a_gate() -> None:
    pools = generated(40)
    held = [row_key(r.text) for r in pools.training if side(HELD_OUT_SALT, r.text, HELD_OUT_PERCENT) == "heldOut"]
    trained = [row_key(r.text) for r in pools.training if side(HELD_OUT_SALT, r.text, HELD_OUT_PERCENT) == "train"]
    clean = account(pools, trained, held)
    assert set(clean["overlaps"].values()) == {0}  # type: ignore[attr-defined]
    leaked = account(pools, [*trained, held[0]], held)
    assert leaked["overlaps"]["trained/gates"] == 1  # type: ignore[index]

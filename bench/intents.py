"""Rows of a file of questions and their categories, for benches that train classifiers."""

import csv
from pathlib import Path

Rows = list[tuple[str, str]]


def read_rows(path: Path) -> Rows:
    """The text and the category of each row."""
    with path.open(newline="") as stream:
        return [(row["text"], row["category"]) for row in csv.DictReader(stream)]


def write_rows(path: Path, rows: Rows) -> None:
    """Write the file that `read_rows` reads."""
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("text", "category"), *rows])

"""CONTRIBUTING.md and the glossary name what there is."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = sorted(path.name for path in (ROOT / "operator/driftloop/api").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", API)
def test_whoever_adds_a_field_finds_the_file(name: str) -> None:
    assert f"`{name}`" in (ROOT / "CONTRIBUTING.md").read_text()


def test_a_word_is_found_by_the_alphabet() -> None:
    table = (ROOT / "docs/glossary.md").read_text().partition("|---|---|\n")[2]
    words = [line.split("|")[1].strip().casefold() for line in table.splitlines()]
    assert len(words) > 30
    assert words == sorted(words)

"""The parts of `make test-long`: documented, filled, and never left out in silence."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from parts import FUZZ, PARTS

ROOT = Path(__file__).parents[2]
TESTS = """
import pytest
from hypothesis import given, strategies

def test_short(): pass

@pytest.mark.long("faults")
def test_fault(): pass

@pytest.mark.long("scale")
@pytest.mark.parametrize("count", [1, 2])
def test_scale(count): pass

@given(strategies.integers())
def test_property(number): pass
"""


def run(folder: Path, *options: str, tests: str = TESTS) -> str:
    """What pytest prints of a file of tests under tests/conftest.py."""
    (folder / "test_it.py").write_text(tests)
    options = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(folder), "-p", "conftest", "-rA", *options)
    path = os.pathsep.join([str(ROOT / "tests"), *(path for path in sys.path if path)])
    command = [sys.executable, "-m", "pytest", *options, str(folder)]
    environment = os.environ | {"PYTHONPATH": path}
    ended = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    return ended.stdout + ended.stderr


def passed(printed: str) -> set[str]:
    return set(re.findall(r"^PASSED \S+::test_(\w+)", printed, re.MULTILINE))


@pytest.mark.parametrize("processes", [(), ("-n", "1")])
def test_long_tests_are_left_out_and_their_commands_named(tmp_path: Path, processes: tuple[str, ...]) -> None:
    printed = run(tmp_path, *processes)
    assert passed(printed) == {"short", "property"}
    assert "1 tests: make test-long PART=faults\n" in printed
    assert "2 tests: make test-long PART=scale\n" in printed
    assert "most examples of 1 properties: make test-long PART=fuzz\n" in printed


@pytest.mark.parametrize(
    ("part", "chosen"), [("faults", {"fault"}), ("fuzz", {"property"}), ("all", {"fault", "scale", "property"})]
)
def test_a_part_has_its_own_tests_and_names_the_others(tmp_path: Path, part: str, chosen: set[str]) -> None:
    printed = run(tmp_path, "--part", part)
    assert passed(printed) == chosen
    assert "tests: make test\n" in printed


def test_a_part_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    printed = run(tmp_path, "--part", "fault")
    assert "invalid choice: 'fault'" in printed
    assert all(part in printed for part in PARTS)


@pytest.mark.parametrize("mark", ['long("fault")', "long", "long()"])
def test_a_mark_without_a_part_is_refused_with_those_that_exist(tmp_path: Path, mark: str) -> None:
    printed = run(tmp_path, tests=f"import pytest\n@pytest.mark.{mark}\ndef test_it(): pass\n")
    assert f"is not one of the parts {', '.join(PARTS)}" in printed


def test_every_part_is_documented_and_every_documented_part_exists() -> None:
    document = (ROOT / "docs/testing.md").read_text()
    _, _, table = document.partition("## Parts of `make test-long`")
    assert set(re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE)) == set(PARTS)


def files_of(part: str) -> list[Path]:
    """The files with tests of a part."""
    marks = re.compile(rf"""(?:long|sweep)\(\s*"{part}\"""")
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if path != Path(__file__)]
    return [path for path in files if marks.search(path.read_text())]


@pytest.mark.parametrize("part", sorted(set(PARTS) - {FUZZ}))
def test_every_part_has_tests(part: str) -> None:
    assert files_of(part)


def test_no_part_that_needs_no_cluster_waits_for_one() -> None:
    cluster = ROOT / "tests/cluster"
    pure = {part for part in PARTS if not any(path.is_relative_to(cluster) for path in files_of(part))}
    listed = re.search(r"^PURE_PARTS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed is not None
    assert set(listed[1].split()) == pure

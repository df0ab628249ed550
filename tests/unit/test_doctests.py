"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

OPERATOR = Path(__file__).parents[2] / "operator"
FILES = [path for path in sorted(OPERATOR.rglob("*.py")) if ">>> " in path.read_text()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(OPERATOR)))
def test_the_examples_give_what_they_say(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(OPERATOR).with_suffix("").parts))
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0

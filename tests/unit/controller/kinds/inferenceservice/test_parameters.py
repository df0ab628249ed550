"""Facts come as one value: no function of rollout and retraining takes more than three parameters."""

import ast
from pathlib import Path

import pytest

from driftloop.controller.kinds import inferenceservice

FOLDER = Path(inferenceservice.__file__).parent
FILES = [path for name in ("rollout", "retraining") for path in sorted((FOLDER / name).glob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_function_takes_more_than_three_parameters(path: Path) -> None:
    functions = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    wide = [function.name for function in functions if _parameters(function) > 3]
    assert not wide


def _parameters(function: ast.FunctionDef) -> int:
    names = [argument.arg for argument in (*function.args.args, *function.args.kwonlyargs)]
    return len([name for name in names if name != "self"])

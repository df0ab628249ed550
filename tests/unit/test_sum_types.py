"""Every sum type is taken apart by `match`, and no case of it is passed over in silence."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from driftloop.contract.result import AnyResult
from driftloop.contract.task import AnyTask

ROOT = Path(__file__).parents[2]
FOLDERS = [ROOT / name for name in ("operator", "trainer_image", "server_image")]
FILES = {path: ast.parse(path.read_text()) for folder in FOLDERS for path in sorted(folder.rglob("*.py"))}
OPERATOR = [path for path in FILES if path.is_relative_to(ROOT / "operator")]


def place(path: Path, node: ast.expr | ast.stmt) -> str:
    return f"{path.relative_to(ROOT)}:{node.lineno}"


def takes_the_rest(case: ast.match_case) -> bool:
    """`case _` or `case never`: with `assert_never` in it, mypy tells which types are left."""
    return isinstance(case.pattern, ast.MatchAs) and case.pattern.pattern is None and case.guard is None


def values(path: Path) -> Iterator[str]:
    """The names of the values and documents that a file defines, the members of sum types."""
    for node in ast.walk(FILES[path]):
        if isinstance(node, ast.ClassDef):
            described = [ast.unparse(entry) for entry in (*node.decorator_list, *node.bases)]
            if any(word in entry for entry in described for word in ("dataclass", "ApiModel")):
                yield node.name


def test_every_match_ends_with_what_becomes_of_the_rest() -> None:
    matches = [(path, node) for path, tree in FILES.items() for node in ast.walk(tree) if isinstance(node, ast.Match)]
    assert len(matches) > 60
    assert [place(path, node) for path, node in matches if not takes_the_rest(node.cases[-1])] == []


@pytest.mark.parametrize("image", ["trainer_image", "server_image"])
def test_the_images_ask_no_document_for_its_type(image: str) -> None:
    documents = {kind.__name__ for union in (AnyTask, AnyResult) for kind in get_args(union)}
    asked = [
        place(path, node)
        for path in FILES
        if path.is_relative_to(ROOT / image)
        for node in ast.walk(FILES[path])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if documents & set(re.findall(r"\w+", ast.unparse(node.args[1])))
    ]
    assert asked == []


@pytest.mark.parametrize("folder", ["controller", "contract", "cli"])
def test_the_operator_asks_no_value_for_its_type(folder: str) -> None:
    own = {name for path in OPERATOR for name in values(path)}
    assert {"Refusal", "TrainingPlan", "Running", "EvaluateTask", "AnswerResult"} <= own
    asked = [
        place(path, node)
        for path in OPERATOR
        if path.is_relative_to(ROOT / "operator/driftloop" / folder)
        for node in ast.walk(FILES[path])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        if own & {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)}
    ]
    assert asked == []

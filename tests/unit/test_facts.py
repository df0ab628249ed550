"""Facts of one reconcile are computed once, carried by frozen values, and read by functions of few parameters."""

import ast
from pathlib import Path

import pytest

KINDS = Path(__file__).parents[2] / "operator/driftloop/controller/kinds"
SERVICE = KINDS / "inferenceservice"
RULERS = [path for folder in ("rollout", "retraining") for path in sorted((SERVICE / folder).glob("*.py"))]
# What a decider reads and concludes, from what was read to what is decided.
FACTS = [
    KINDS / "finetunejob/observed.py",
    KINDS / "finetunejob/stages.py",
    KINDS / "modelversion/observed.py",
    KINDS / "modelversion/comparison.py",
    KINDS / "modelversion/evaluation.py",
    SERVICE / "observed.py",
    SERVICE / "questions.py",
    SERVICE / "selection.py",
    SERVICE / "situation.py",
    *RULERS,
]
MOST_PARAMETERS = 3


def place(path: Path, node: ast.AST, name: str) -> str:
    return f"{path.relative_to(KINDS)}:{getattr(node, 'lineno', 0)} {name}"


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> int:
    named = function.args
    return len(
        [*named.posonlyargs, *named.args, *named.kwonlyargs, *filter(None, (named.vararg, named.kwarg))],
    )


def values(path: Path) -> list[tuple[ast.ClassDef, str]]:
    """The dataclasses of a file, with their decorators as text."""
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    decorated = [(node, " ".join(map(ast.unparse, node.decorator_list))) for node in classes]
    return [(node, decorators) for node, decorators in decorated if "dataclass" in decorators]


@pytest.mark.parametrize("path", RULERS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_rollout_and_retraining_pass_facts_in_few_parameters(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    ]
    many = [node for node in functions if parameters(node) > MOST_PARAMETERS]
    assert [place(path, node, getattr(node, "name", "lambda")) for node in many] == []


def test_every_fact_is_frozen_and_says_what_it_is() -> None:
    missing, names = [], set()
    for path in FACTS:
        lines = path.read_text().splitlines()
        for node, decorators in values(path):
            names.add(node.name)
            if "frozen=True" not in decorators:
                missing.append(place(path, node, node.name))
            for field in (entry for entry in node.body if isinstance(entry, ast.AnnAssign)):
                above, own = lines[field.lineno - 2].strip(), lines[field.lineno - 1 : field.end_lineno]
                if not above.startswith("#") and not any("  # " in line for line in own):
                    missing.append(place(path, field, ast.unparse(field.target)))
    assert {"Observed", "Stages", "Comparison", "Evaluation", "Situation", "Basis", "History", "Pair"} <= names
    assert missing == []


def test_stable_candidate_and_revisions_are_computed_by_the_situation_alone() -> None:
    """Others read them from it. A method `revision_of` of the situation is such a reading."""
    asked = [
        place(path, node, ast.unparse(node.func))
        for path in sorted(SERVICE.rglob("*.py"))
        if path.name != "situation.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        if ast.unparse(node.func) in ("revision_of", "situation_of") or ast.unparse(node.func).endswith(".role")
    ]
    assert sorted(entry.split(":")[0] for entry in asked) == [
        "inferenceservice/decide.py",  # builds the situation
        "inferenceservice/observe.py",  # builds it to know what to query
    ], asked

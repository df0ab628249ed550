"""The pipelines in ci/ call the same commands, and only options that exist."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
import yaml

from driftloop.cli.main import COMMANDS
from pipelines import CI, SYSTEMS, Parameters, commands

PARAMETERS = Parameters("models/job.yaml", "models/service.yaml", "desk", "push")
FLOW = ["validate", "run", "lineage", "propose", "wait service"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_calls_the_same_commands_in_the_same_order(system: str, tmp_path: Path) -> None:
    steps = SYSTEMS[system](PARAMETERS, tmp_path)
    assert [command for step in steps for command in commands(step)] == FLOW


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_option_exists(system: str, tmp_path: Path) -> None:
    called = [line for step in SYSTEMS[system](PARAMETERS, tmp_path) for line in calls(step.script)]
    assert len(called) == len(FLOW)
    for name, *words in called:
        parser = import_module(f"driftloop.cli.{COMMANDS[name].module}")._parser()
        known = {option for action in parser._actions for option in action.option_strings}
        assert {word for word in words if word.startswith("-")} <= known


def calls(script: str) -> list[list[str]]:
    """The words of each call of driftloop, without what the shell does with its output."""
    lines = re.findall(r"driftloop (.+)", script.replace("\\\n", " "))
    return [shlex.split(re.split(r" > | \| |\)$", line)[0]) for line in lines if not line.startswith('"')]


@pytest.mark.parametrize("path", sorted(CI.rglob("*.y*ml")), ids=lambda path: str(path.relative_to(CI)))
def test_the_files_are_yaml(path: Path) -> None:
    assert list(yaml.safe_load_all(path.read_text()))


def test_the_readme_names_every_system() -> None:
    told = (CI / "README.md").read_text()
    for name in ("GitHub Actions", "GitLab CI", "CircleCI", "Tekton", "Jenkins"):
        assert name in told

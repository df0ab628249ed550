"""Takes the steps out of the pipelines in ci/, and runs them in bash as the CI system would.

The systems themselves are not here: what they do between steps (substitute parameters, pass on variables) is played.
"""

import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CI = Path(__file__).parents[1] / "ci"
BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"]


@dataclass(frozen=True)
class Step:
    """One step: a script, and the variables that it gets."""

    name: str
    script: str
    variables: Mapping[str, str] = field(default_factory=dict)
    stores: bool = False  # its output is the variable VERSION (Jenkins)


@dataclass(frozen=True)
class Parameters:
    """What a user sets in the pipeline."""

    job: str
    service_file: str
    service: str
    forge: str
    run_timeout: str = "2m"
    promotion_timeout: str = "2m"
    suffix: str = "4F2A91C0FFEE"
    target: str = "main"

    def by_name(self) -> dict[str, str]:
        """The values by the names that the pipelines use."""
        return {name.replace("_", "-"): value for name, value in vars(self).items()}


def github(parameters: Parameters, folder: Path) -> list[Step]:
    """The steps of the composite action."""
    values = {f"inputs.{name}": value for name, value in parameters.by_name().items()}
    values["steps.run.outputs.version"] = "$VERSION"
    steps = yaml.safe_load((CI / "github/action.yml").read_text())["runs"]["steps"]
    common = {"GITHUB_OUTPUT": str(folder / "output"), "RUNNER_TEMP": str(folder)}
    return [
        Step(
            step["name"],
            step["run"],
            common | {k: _fill(r"\$\{\{ (\S+) \}\}", v, values) for k, v in step["env"].items()},
        )
        for step in steps
    ]


def gitlab(parameters: Parameters, folder: Path) -> list[Step]:
    """The scripts of the component's jobs. GitLab fills in the inputs before it reads the jobs."""
    _, jobs = (CI / "gitlab/templates/driftloop.yml").read_text().split("\n---\n")
    values = {"stage": "deploy"} | parameters.by_name()
    found = yaml.safe_load(_fill(r"\$\[\[ inputs\.(\S+) \]\]", jobs, values))
    sha = {"CI_COMMIT_SHORT_SHA": parameters.suffix}
    return [Step(name, "\n".join(job["script"]), sha) for name, job in found.items()]


def circleci(parameters: Parameters, folder: Path) -> list[Step]:
    """The steps of the orb's command."""
    text = _fill(r"<< parameters\.(\S+) >>", (CI / "circleci/orb.yml").read_text(), parameters.by_name())
    common = {"BASH_ENV": str(folder / "env"), "CIRCLE_SHA1": parameters.suffix}
    runs = [step["run"] for step in yaml.safe_load(text)["commands"]["retrain"]["steps"]]
    return [Step(run["name"], run["command"], common | run["environment"]) for run in runs]


def tekton(parameters: Parameters, folder: Path) -> list[Step]:
    """The steps of the Task."""
    values = {f"params.{name}": value for name, value in parameters.by_name().items()}
    values |= {"results.version.path": str(folder / "result"), "params.image": "any", "workspaces.source.path": "."}
    task = yaml.safe_load(_fill(r"\$\(([a-z][\w.-]+)\)", (CI / "tekton/pipeline.yaml").read_text(), values))
    variables = {each["name"]: each["value"] for each in task["spec"]["stepTemplate"]["env"]}
    return [Step(step["name"], step["script"], variables) for step in task["spec"]["steps"]]


def jenkinsfile(parameters: Parameters, folder: Path) -> list[Step]:
    """The sh steps of the declarative pipeline."""
    return _groovy((CI / "jenkins/Jenkinsfile").read_text(), parameters)


def jenkins_library(parameters: Parameters, folder: Path) -> list[Step]:
    """The sh steps of the shared library."""
    return _groovy((CI / "jenkins/vars/driftloop.groovy").read_text(), parameters)


SYSTEMS: dict[str, Callable[[Parameters, Path], list[Step]]] = {
    "github": github,
    "gitlab": gitlab,
    "circleci": circleci,
    "tekton": tekton,
    "jenkinsfile": jenkinsfile,
    "jenkins_library": jenkins_library,
}


Done = subprocess.CompletedProcess[str]


def run(steps: list[Step], folder: Path, work: Path, environment: Mapping[str, str]) -> list[Done]:
    """Run the steps one after the other until one fails, and pass on the version as each system does."""
    done: list[Done] = []
    version = ""
    for step in steps:
        variables = {name: value.replace("$VERSION", version) for name, value in step.variables.items()}
        base = {**environment, **({"VERSION": version} if version else {}), **variables}
        done.append(
            subprocess.run(
                [*BASH, step.script], cwd=work, env=base, capture_output=True, text=True, timeout=180, check=False
            )
        )
        if done[-1].returncode != 0:
            break
        version = done[-1].stdout.strip() if step.stores else _passed_on(folder, work) or version
    return done


def commands(step: Step) -> list[str]:
    """The commands of driftloop in a step, each up to its options."""
    return re.findall(r"driftloop ((?:validate|run|lineage|propose|wait)(?: service)?) ", step.script)


def _passed_on(folder: Path, work: Path) -> str:
    """The version in the file by which a step passes it on."""
    for path in (folder / "output", folder / "env", work / "driftloop.env"):
        if path.exists() and (found := re.search(r"(?:version|VERSION)=(\S+)", path.read_text())):
            return found.group(1)
    return ""


def _groovy(text: str, parameters: Parameters) -> list[Step]:
    variables = {name.upper(): value for name, value in vars(parameters).items()}
    stages = re.split(r"stage\('([^']+)'\)", text)[1:]
    return [
        Step(name, script, variables, stores=stores)
        for name, body in zip(stages[::2], stages[1::2], strict=True)
        for script, stores in _shell_steps(body)
    ]


def _shell_steps(body: str) -> Iterator[tuple[str, bool]]:
    for found in re.finditer(r"sh '([^']+)'|sh\(returnStdout: true, script: '([^']+)'\)\.trim\(\)", body):
        yield found.group(1) or found.group(2), found.group(2) is not None


def _fill(pattern: str, text: str, values: Mapping[str, Any]) -> str:
    return re.sub(pattern, lambda found: str(values[found.group(1)]), text)


def clean_environment() -> dict[str, str]:
    """The environment of a runner: no user of git, no settings of this machine's git."""
    return os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}

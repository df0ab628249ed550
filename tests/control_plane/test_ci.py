"""The steps of every pipeline in ci/, with the real commands, a real API server, git, and the Role's token.

The test plays the operator, which trains and promotes, and Argo CD, which applies the pinned manifest from the branch.
"""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml

from control_plane.commands import Pipeline, pipeline
from control_plane.harness import Cluster
from control_plane.objects import finetunejob, inferenceservice, modelversion
from control_plane.test_cli import record_of_rollback, revision
from pipelines import CI, SYSTEMS, Done, Parameters, clean_environment, run

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]

SERVICE = "desk"
PARAMETERS = Parameters("models/job.yaml", "models/service.yaml", SERVICE, "push")


def git(folder: Path, *arguments: str) -> str:
    author = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    return subprocess.run(["git", *author, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A clone of a remote with the manifests."""
    git(tmp_path, "init", "-q", "--bare", "-b", "main", "remote")
    git(tmp_path, "clone", "-q", "remote", "work")
    models = tmp_path / "work/models"
    models.mkdir()
    (models / "job.yaml").write_text(yaml.safe_dump(finetunejob("tune")))
    (models / "service.yaml").write_text(yaml.safe_dump(inferenceservice(SERVICE)))
    git(tmp_path / "work", "add", ".")
    git(tmp_path / "work", "commit", "-qm", "first")
    git(tmp_path / "work", "push", "-q", "origin", "HEAD:main")
    return tmp_path / "work"


class Played:
    """The operator and Argo CD, in a thread."""

    def __init__(self, cluster: Cluster, remote: Path, is_good: bool) -> None:
        self._cluster, self._remote, self._is_good = cluster, remote, is_good
        self.stopped = threading.Event()

    def play(self) -> None:
        while not self.stopped.wait(0.3):
            with suppress(Exception):  # the next turn tries again
                self._train()
                self._synchronise()

    def _train(self) -> None:
        for job in self._cluster.list("ftj"):
            if (job.get("status") or {}).get("phase"):
                continue
            name = job["metadata"]["name"]
            version = modelversion(f"family-{job['metadata']['uid'][:8]}")
            version["spec"]["lineage"] = {"job": name, "jobUid": job["metadata"]["uid"]}
            self._cluster.create(version)
            version_name = version["metadata"]["name"]
            self._cluster.patch_status("mver", version_name, {"phase": "Approved", "gateSummary": "3 of 3 passed"})
            self._cluster.patch_status("ftj", name, {"phase": "Succeeded", "version": version_name})

    def _synchronise(self) -> None:
        branches = git(self._remote, "branch", "--format=%(refname:short)").split()
        pins = [branch for branch in branches if branch.startswith("driftloop/")]
        for branch in pins:
            self._cluster.kubectl("apply", "-f", "-", stdin=git(self._remote, "show", f"{branch}:models/service.yaml"))
            version = branch.partition("/")[2]
            if self._is_good:
                status = {"stable": revision(version)}
            else:
                status = {"stable": revision("family-old"), "failedRevisions": [f"r-{version}"]}
                with suppress(Exception):
                    self._cluster.create(record_of_rollback(SERVICE, version))
            generation = self._cluster.get("dlsvc", SERVICE)["metadata"]["generation"]
            self._cluster.patch_status(
                "dlsvc", SERVICE, {"phase": "Serving", "observedGeneration": generation, **status}
            )


@contextmanager
def played(cluster: Cluster, remote: Path, is_good: bool) -> Iterator[None]:
    found = Played(cluster, remote, is_good)
    thread = threading.Thread(target=found.play)
    thread.start()
    try:
        yield
    finally:
        found.stopped.set()
        thread.join()


def run_pipeline(cli: Pipeline, system: str, work: Path) -> list[Done]:
    environment = clean_environment() | cli.environment_with_tools()
    return run(SYSTEMS[system](PARAMETERS, work.parent), work.parent, work, environment)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_change_comes_into_service(cluster: Cluster, tmp_path: Path, work: Path, system: str) -> None:
    cli = pipeline(cluster, tmp_path)
    with played(cluster, tmp_path / "remote", is_good=True):
        done = run_pipeline(cli, system, work)
    assert [step.returncode for step in done] == [0] * len(done), done[-1].stdout + done[-1].stderr
    [job] = cluster.list("ftj")
    assert job["metadata"]["name"].startswith("tune-")
    version = job["status"]["version"]
    assert cluster.get("dlsvc", SERVICE)["spec"]["model"]["version"] == version
    assert f"{version} serves" in done[-1].stdout
    message = git(tmp_path / "remote", "log", "-1", "--format=%B", f"driftloop/{version}")
    assert message.startswith(f"Serve {version}\n\n{version}: Approved, 3 of 3 passed\n")
    assert f"  job          {job['metadata']['name']}\n" in message


def test_a_rolled_back_canary_fails_the_pipeline_with_the_reason(cluster: Cluster, tmp_path: Path, work: Path) -> None:
    cli = pipeline(cluster, tmp_path)
    with played(cluster, tmp_path / "remote", is_good=False):
        done = run_pipeline(cli, "github", work)
    assert [step.returncode for step in done] == [0, 0, 0, 1]
    assert "was rolled back: CanaryWorse: 9 % of its requests failed" in done[-1].stdout


@pytest.mark.skipif(
    not (shutil.which("gitlab-ci-local") and shutil.which("rsync")), reason="needs gitlab-ci-local, rsync"
)
def test_the_component_runs_in_gitlab_ci_local(cluster: Cluster, tmp_path: Path, work: Path) -> None:
    """`npm install -g gitlab-ci-local@4.61.1` with Node 20, and rsync. It reads the component, and runs its jobs."""
    cli = pipeline(cluster, tmp_path)
    shutil.copytree(CI / "gitlab", work / "ci/gitlab")
    example = yaml.safe_load((CI / "gitlab/gitlab-ci.yml").read_text())
    example["include"][0]["inputs"] |= {"service": SERVICE, "forge": "push", "promotion-timeout": "2m"}
    del example["workflow"]  # it has no commits to compare
    (work / ".gitlab-ci.yml").write_text(yaml.safe_dump(example))
    git(work, "add", ".")
    git(work, "commit", "-qm", "pipeline")
    command = ["gitlab-ci-local", "--force-shell-executor", "--variable", f"KUBECONFIG={cli.kubeconfig}"]
    with played(cluster, tmp_path / "remote", is_good=True):
        environment = clean_environment() | cli.environment_with_tools()
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    [job] = cluster.list("ftj")
    assert cluster.get("dlsvc", SERVICE)["spec"]["model"]["version"] == job["status"]["version"]


@pytest.mark.skipif(not shutil.which("act"), reason="needs act")
def test_the_action_runs_in_act(cluster: Cluster, tmp_path: Path, work: Path) -> None:
    """`go install github.com/nektos/act@latest`. It reads the composite action, and runs its steps on this machine."""
    cli = pipeline(cluster, tmp_path)
    shutil.copytree(CI / "github", work / "ci/github")
    example = yaml.safe_load((CI / "github/workflow.yml").read_text())
    example["on"] = example.pop(True)  # YAML 1.1 reads `on` as true
    job = example["jobs"]["retrain"]
    job["env"] = {"KUBECONFIG": str(cli.kubeconfig)}
    job["steps"] = [step for step in job["steps"] if step.get("uses") == "./ci/github"]
    job["steps"][0]["with"] |= {"service": SERVICE, "forge": "push", "promotion-timeout": "2m"}
    (work / ".github/workflows").mkdir(parents=True)
    (work / ".github/workflows/model.yml").write_text(yaml.safe_dump(example))
    git(work, "add", ".")
    git(work, "commit", "-qm", "pipeline")
    command = ["act", "push", "-P", "ubuntu-latest=-self-hosted", "--bind"]
    with played(cluster, tmp_path / "remote", is_good=True):
        environment = clean_environment() | cli.environment_with_tools() | {"HOME": str(tmp_path)}
        done = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
    assert done.returncode == 0, done.stdout + done.stderr
    [trained] = cluster.list("ftj")
    assert cluster.get("dlsvc", SERVICE)["spec"]["model"]["version"] == trained["status"]["version"]

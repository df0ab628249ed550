"""Options and manifests of validate, run and wait, before a cluster is asked."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftloop.cli.exits import Exit
from driftloop.cli.main import COMMANDS, main
from driftloop.cli.manifests import BadInput, Manifest
from driftloop.cli.options import duration
from driftloop.cli.run import job_to_apply
from driftloop.cli.session import exit_of
from driftloop.cli.validate import server_faults
from driftloop.controller.runtime.kube.api import ApiError
from unit.cli.test_plan import manifest

EXAMPLES = Path(__file__).parents[3] / "examples"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == Exit.USAGE
    return capsys.readouterr().err


def written(folder: Path, *documents: Any) -> str:
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump_all(documents))
    return str(path)


# driftloop


def test_the_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(f"  {name} " in printed and command.summary in printed for name, command in COMMANDS.items())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([name, "--help"])
    assert caught.value.code == 0
    assert f"usage: driftloop {name}" in capsys.readouterr().out


# validate


def test_the_examples_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    folders = ("support-desk", "preference", "entrypoint", "custom-engine", "gitops/services")
    assert main(["validate", "-f", *(str(EXAMPLES / name) for name in folders)]) == 0
    assert capsys.readouterr().out.count(": valid\n") >= 6


def test_faults_are_printed_with_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, manifest(), manifest(training={"maxLength": 4}))
    assert main(["validate", "-f", path]) == Exit.USAGE
    [good, bad] = capsys.readouterr().err.splitlines()
    assert good == f"{path}: FineTuneJob tune: valid"
    assert bad.startswith(f"{path}: FineTuneJob tune: spec.training.maxLength: ")


def test_faults_are_printed_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, manifest(training={"methd": "sft"}))
    assert main(["validate", "-f", path, "-o", "json"]) == Exit.USAGE
    found = json.loads(capsys.readouterr().out)
    assert (found["valid"], found["objects"][0]["faults"]) == (
        False,
        [{"field": "spec.training.methd", "problem": "unknown field", "fix": "Did you mean method?"}],
    )


def test_objects_in_a_list_and_on_standard_input_are_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = {"apiVersion": "v1", "kind": "List", "items": [manifest(), {"kind": "Secret"}]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(listed)))
    assert main(["validate", "-f", "-"]) == 0
    assert capsys.readouterr().out == "standard input: FineTuneJob tune: valid\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: [", "not YAML"),
        ("- a", "each document must be an object"),
        ("kind: Pod", "no FineTuneJob, ModelVersion or InferenceService"),
    ],
)
def test_a_file_without_objects_is_refused(
    text: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text(text)
    assert error in refused(capsys, "validate", "-f", str(tmp_path / "a.yaml"))


def test_the_servers_causes_become_faults() -> None:
    causes = [{"field": "spec.a", "message": "too small"}, {"field": "<nil>", "message": "some rules were not checked"}]
    assert [str(fault) for fault in server_faults("is invalid", causes)] == ["spec.a: too small"]
    assert [str(fault) for fault in server_faults("strict decoding error", [])] == ["server: strict decoding error"]


# run


def test_a_job_gets_the_name_and_the_namespace_of_the_options() -> None:
    found = Manifest("job.yaml", manifest() | {"status": {"phase": "Succeeded"}})
    applied = job_to_apply(found, "tune-4f2a", "team")
    assert applied["metadata"] == {"name": "tune-4f2a", "namespace": "team"}
    assert "status" not in applied
    assert job_to_apply(found, None, None)["metadata"] == {"name": "tune"}


def test_two_namespaces_are_refused() -> None:
    document = manifest()
    document["metadata"]["namespace"] = "mine"
    with pytest.raises(BadInput, match=r"metadata\.namespace is mine, but --namespace is team"):
        job_to_apply(Manifest("job.yaml", document), None, "team")
    assert job_to_apply(Manifest("job.yaml", document), None, None)["metadata"]["namespace"] == "mine"


def test_a_wrong_manifest_is_not_applied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "spec.training.methd" in refused(capsys, "run", "-f", written(tmp_path, manifest(training={"methd": "sft"})))
    assert "must have exactly one" in refused(capsys, "run", "-f", written(tmp_path, manifest(), manifest()))
    assert "metadata.name" in refused(capsys, "run", "-f", written(tmp_path, manifest()), "--name", "A" * 41)


# wait


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["job", "a", "--for=ready"], "a job can be waited for with --for complete or judged"),
        (["service", "a", "--for=promoted"], "name the version with --version"),
        (["job", "a", "--version=v"], "--version: only for a service"),
        (["service", "a", "--for=ready", "--version=v"], "--version: only for a service, with --for promoted"),
        (["pod", "a"], "invalid choice: 'pod'"),
        (["job", "a", "--timeout=soon"], "'soon' is not a time such as 90s"),
        (["job", "a", "--timeout=0s"], "'0s' is not a time"),
        (["job", "a", "--timeout=31d"], "of at most 30d"),
    ],
)
def test_a_wrong_combination_is_named(options: list[str], error: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert error in refused(capsys, "wait", *options)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("2h", 7200), ("1d2h3m4s", 93_784)])
def test_durations(text: str, seconds: float) -> None:
    assert duration(text) == seconds


# all


def test_a_wrong_object_is_the_manifests_fault_and_all_else_the_clusters() -> None:
    codes = (400, 422, 0, 401, 403, 404, 409, 500)
    found = [exit_of(ApiError(code, "Any", "any")) for code in codes]
    assert found == [Exit.USAGE] * 2 + [Exit.CLUSTER] * 6


def test_the_exit_codes_are_those_that_are_documented() -> None:
    lines = (EXAMPLES.parent / "docs/cli.md").read_text().splitlines()
    table = [
        line.split("|")[1].strip()
        for line in lines
        if line.startswith("| ") and line.split("|")[1].strip()[0].isdigit()
    ]
    assert table == [str(int(code)) for code in Exit]

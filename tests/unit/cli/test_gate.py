"""`driftloop gate` runs the processes of an evaluation on tiny trained models, and its exit code is the verdict."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from driftloop.cli import gate
from driftloop.cli.exits import Exit
from driftloop.cli.main import main
from driftloop.contract.manifest import Manifest
from unit.cli.gating import models

pytestmark = pytest.mark.timeout(900)  # ends a hang and measures nothing: engines start slowly on a busy machine

SUITES = """
suites:
  - {name: old, kind: retention, delta: 0.3, uri: "pvc://models/items/old.jsonl", maxItems: 100}
  - {name: least, kind: floor, minimum: 0.7, uri: "pvc://models/items/old.jsonl", maxItems: 100}
maxTokens: 8
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good and a worse model, a copy of the good one, and the items of both suites."""
    folder = tmp_path_factory.mktemp("gate")
    models.train(folder / "good", {})
    models.train(folder / "worse", {models.REFUND: models.TRACK})
    (folder / "items").mkdir()
    for name in ("old", "least"):
        models.write_items(folder / "items" / f"{name}.jsonl")
    (folder / "suites.yaml").write_text(SUITES)
    return folder


def options(folder: Path, model: str, *more: str) -> list[str]:
    suites, items = str(folder / "suites.yaml"), str(folder / "items")
    return ["gate", "--model", str(folder / model), "--suites", suites, "--items", items, *more]


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {gate["name"]: gate["verdict"] for gate in document["gates"]}


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_model_as_good_as_the_baseline_passes_and_no_folder_of_the_user_is_changed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, report = files_of(folder), tmp_path / "report"
    status = main(options(folder, "good", "--baseline", str(folder / "good"), "--report", str(report)))
    shown = capsys.readouterr()
    assert status == Exit.DONE, shown
    assert shown.out.splitlines()[-1] == "Passed: 4 of 4 passed"
    assert "gate: candidate: suite old: 40 of 40 items" in shown.err
    assert files_of(folder) == before
    document = json.loads((report / "report.json").read_text())
    assert verdicts(document) == {"digest": "Pass", "api": "Pass", "old": "Pass", "least": "Pass"}
    assert document["model"]["digest"] == document["baseline"]["digest"]
    assert (report / "report.md").read_text().startswith("## Model gate: Passed\n")
    assert ElementTree.parse(report / "junit.xml").getroot().get("tests") == "4"
    answers = [json.loads(line) for line in (report / "evidence" / "items.jsonl").read_text().splitlines()]
    assert {(answer["expected"], answer["candidate"]["text"]) for answer in answers} == {
        (models.TRACK, models.TRACK),
        (models.REFUND, models.REFUND),
    }


REQUESTS = """
{"messages": [{"role": "user", "content": "where is my parcel"}], "max_tokens": 4}
{"id": "stream", "path": "/v1/completions", "body": {"prompt": "where is", "stream": true, "max_tokens": 4}}
{"id": "unknown field", "path": "/v1/completions", "body": {"prompt": ["where", 1]}}
"""


def test_recorded_requests_are_sent_to_both_models(folder: Path, tmp_path: Path) -> None:
    """The third is one that the built-in engine refuses: it counts only where there is nothing to compare with."""
    suites, items = tmp_path / "suites.yaml", tmp_path / "items"
    suites.write_text(SUITES + 'contract: {uri: "pvc://models/items/requests.jsonl"}\n')
    items.mkdir()
    for path in (folder / "items").iterdir():
        (items / path.name).symlink_to(path)
    arguments = ["gate", "--model", str(folder / "good"), "--suites", str(suites), "--items", str(items)]
    with pytest.raises(SystemExit):
        main([*arguments, "--no-baseline"])  # the requests are nowhere on this machine
    (items / "requests.jsonl").write_text(REQUESTS)

    compared, alone = tmp_path / "compared", tmp_path / "alone"
    assert main([*arguments, "--baseline", str(folder / "good"), "--report", str(compared)]) == Exit.DONE
    conduct = json.loads((compared / "evidence" / "contract.json").read_text())
    assert [name for name, fault in conduct["recorded"].items() if fault] == ["unknown field"]
    assert conduct["features"]["usage in streams"] is None

    assert main([*arguments, "--no-baseline", "--report", str(alone)]) == Exit.GATE_FAILED
    gates = {gate["name"]: gate for gate in json.loads((alone / "report.json").read_text())["gates"]}
    assert gates["api"]["verdict"] == "Fail"
    assert "unknown field: status 400" in gates["api"]["message"]


def test_a_worse_model_fails_its_gates(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "report"
    found = options(folder, "worse", "--baseline", str(folder / "good"), "--report", str(report), "-o", "json")
    assert main(found) == Exit.GATE_FAILED
    document = json.loads(capsys.readouterr().out)
    assert (document["verdict"], document["exitCode"]) == ("Failed", 6)
    assert verdicts(document) == {"digest": "Pass", "api": "Pass", "old": "Fail", "least": "Fail"}
    old = next(gate for gate in document["gates"] if gate["name"] == "old")
    assert (old["value"], old["baseline"], old["items"]) == ("0.5000", "1.0000", 40)
    suite = ElementTree.parse(report / "junit.xml").getroot()
    assert (suite.get("failures"), suite.get("errors")) == ("2", "0")


def test_a_model_is_compared_with_the_anchor_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The worse model is as good as its baseline, and has lost too much since the anchor."""
    suites = tmp_path / "suites.yaml"
    suites.write_text(SUITES.replace("delta: 0.3,", "delta: 0.3, totalDelta: 0.3,"))
    against = ("--baseline", str(folder / "worse"), "--anchor", str(folder / "good"))
    found = options(folder, "worse", *against, "--suites", str(suites), "-o", "json")
    assert main(found) == Exit.GATE_FAILED
    old = next(gate for gate in json.loads(capsys.readouterr().out)["gates"] if gate["name"] == "old")
    assert (old["verdict"], old["baseline"], old["anchor"]["value"]) == ("Fail", "0.5000", "1.0000")
    assert old["anchor"]["left"] == "0.0000"
    assert old["message"].startswith("against the anchor (anchor): 0 gained, 20 lost of 40 items")


def test_a_first_model_is_judged_by_its_floors_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(options(folder, "good", "--no-baseline", "-o", "json")) == Exit.DONE
    document = json.loads(capsys.readouterr().out)
    assert verdicts(document) == {"digest": "Pass", "api": "Pass", "old": "NotApplicable", "least": "Pass"}


def test_a_folder_that_no_pod_would_serve_is_not_judged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "pickled"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "pytorch_model.bin").write_bytes(b"code")
    report = tmp_path / "report"
    assert main([*options(folder, "good", "--no-baseline", "--report", str(report)), "--model", str(model)]) == 1
    assert "pickled files can run code" in capsys.readouterr().out
    (case,) = ElementTree.parse(report / "junit.xml").getroot().iter("testcase")
    assert case.find("error") is not None


def test_a_folder_that_its_manifest_does_not_describe_is_not_judged(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "changed"
    model.mkdir()
    for path in (folder / "good").iterdir():
        (model / path.name).write_bytes(path.read_bytes())
    Manifest.of(model).write(model)
    (model / "generation_config.json").write_text("{}")
    assert main([*options(folder, "good", "--no-baseline"), "--model", str(model)]) == Exit.FAILED
    assert "content of generation_config.json does not match the manifest" in capsys.readouterr().out


def test_an_earlier_report_does_not_outlive_a_run_that_is_interrupted_and_no_process_is_left(
    folder: Path, tmp_path: Path
) -> None:
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text("{}")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-m", "driftloop.cli.main", *options(folder, "good", "--no-baseline")]
    environment = os.environ | {"TMPDIR": str(scratch), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    running = subprocess.Popen(
        [*command, "--report", str(report)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stderr is not None
    try:
        assert any("the engine loads the model" in line for line in running.stderr)
        started = wait_for_processes(scratch)
        for process in started:  # so that they can't have ended before the signal
            os.kill(process, signal.SIGSTOP)
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == Exit.INTERRUPTED
    finally:
        running.kill()
        running.wait()
    assert not any(Path(f"/proc/{process}").exists() for process in started)
    assert not (report / "report.json").exists()
    assert list(scratch.iterdir()) == []


def wait_for_processes(scratch: Path) -> list[int]:
    """The ids of the engine and its client, which have their tasks below `scratch`."""
    deadline = time.monotonic() + 60
    while len(found := list(processes_of(scratch))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return found


def processes_of(scratch: Path) -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = path.read_bytes()
        except OSError:
            continue
        if f"DRIFTLOOP_TASK_FILE={scratch}".encode() in environment:
            yield int(path.parent.name)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code == Exit.USAGE
    return capsys.readouterr().err.rpartition("driftloop gate: error: ")[2]


def test_missing_packages_are_named_before_anything_runs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gate, "NEEDED", ("torch", "no_such_package"))
    error = refused(capsys, *options(folder, "good", "--no-baseline"))
    assert "packages are missing: no_such_package. Install them: pip install" in error


def test_a_baseline_that_was_forgotten_is_not_taken_for_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = refused(capsys, *options(folder, "good"))
    assert error.startswith("suite old compares with another model: set --baseline to its folder, or --no-baseline")

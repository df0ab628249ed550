"""`driftloop validate` notes what is valid but untested, and retrainings that forget."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftloop.cli.main import main
from driftloop.cli.notes import notes_of
from unit.cli.test_plan import EXAMPLES, manifest

COMPUTE = {"nodes": 1, "gpusPerNode": 8}
NEW = {"from": {"config": {"architecture": {"model_type": "bloom"}}}}
JOBS: list[tuple[dict[str, Any], str]] = [
    ({"training": {"method": "dpo", "adapter": {"type": "qlora"}}}, "any type of model, dpo, adapter qlora, fsdp"),
    (
        {"compute": COMPUTE | {"parallelism": {"pipeline": 2, "dataReplicate": 2, "tensor": 2}}},
        ", pipeline x replicate x",
    ),
    (
        {"training": {"compile": True, "adapter": {"type": "lora", "targetModules": ["q_proj"]}}},
        "lora on q_proj, compiled",
    ),
    ({"model": NEW, "training": {"method": "pretrain"}}, "bloom, sft, fsdp"),
]


@pytest.mark.parametrize(("parts", "words"), JOBS)
def test_a_job_that_no_test_covers_is_noted(parts: dict[str, Any], words: str) -> None:
    (note,) = notes_of(manifest(**{"compute": COMPUTE} | parts))
    assert note.startswith("spec: untested: no test compares this with plain training: ")
    assert words in note


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"training": {"adapter": {"type": "qlora"}, "packing": True}},
        {"compute": COMPUTE | {"parallelism": {"context": 2}}},
        {"training": {"entrypoint": "own:train"}},
        {"model": {"from": {"config": {"architecture": {"model_type": "llama"}}}}, "training": {"method": "pretrain"}},
    ],
)
def test_what_some_type_of_model_is_tested_with_is_not_noted(parts: dict[str, Any]) -> None:
    assert notes_of(manifest(**parts)) == []


def service() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((EXAMPLES / "inferenceservice.yaml").read_text())
    return document


def test_a_retraining_without_replay_is_noted_and_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    document = service()
    assert notes_of(document) == []
    del document["spec"]["retraining"]["jobTemplate"]["spec"]["data"]["replay"]
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(document))
    assert main(["validate", "-f", str(tmp_path / "service.yaml")]) == 0
    printed = capsys.readouterr().out
    assert ": valid\n" in printed
    assert "note: spec.retraining.jobTemplate.spec.data has no replay" in printed
    main(["validate", "-f", str(tmp_path / "service.yaml"), "-o", "json"])
    (entry,) = json.loads(capsys.readouterr().out)["objects"]
    assert entry["valid"]
    assert len(entry["notes"]) == 1

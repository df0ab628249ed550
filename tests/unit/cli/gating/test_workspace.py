"""The temporary folder that stands for the volumes of the pods."""

from pathlib import Path

import pytest

from driftloop.api.suite import SuiteSpec
from driftloop.cli.gating.workspace import Workspace
from driftloop.cli.manifests import BadInput
from driftloop.contract.manifest import MANIFEST, Manifest


@pytest.fixture
def work(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "work")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "part.json").write_text("[]")
    return folder


def test_a_folder_without_a_manifest_gets_one_beside_it(work: Workspace, model: Path) -> None:
    artefact = work.artefact("candidate", model)
    placed = work.path(artefact.uri)
    Manifest.read(placed).verify(placed, artefact.digest)
    assert (placed / "sub" / "part.json").read_text() == "[]"
    assert not (model / MANIFEST).exists()


def test_a_folder_with_a_manifest_is_verified_against_its_own(work: Workspace, model: Path) -> None:
    Manifest.of(model).write(model)
    digest = Manifest.read(model).digest
    (model / "config.json").write_text('{"changed": true}')
    artefact = work.artefact("candidate", model)
    assert artefact.digest == digest
    assert (work.path(artefact.uri) / "config.json").read_text() == '{"changed": true}'


def test_a_manifest_that_can_not_be_read_is_named(work: Workspace, model: Path) -> None:
    (model / MANIFEST).write_text("{")
    with pytest.raises(BadInput, match=r"model: model: no readable manifest.json"):
        work.artefact("candidate", model)


def test_only_suites_with_a_file_here_get_its_uri(work: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "old.jsonl"
    file.write_text("{}\n")
    old = SuiteSpec(name="old", kind="retention", items="data")
    new = SuiteSpec(name="new", kind="floor", uri="s3://bucket/new.jsonl")
    here, there = work.suites([old, new], {"old": file})
    assert there == new
    assert (here.uri, here.items) == ("pvc://gate/items/old.jsonl", None)
    assert work.path(here.uri or "").read_text() == "{}\n"

"""Each fault of a manifest names the field and the fix."""

from typing import Any

import pytest

from driftloop.cli.faults import faults_of
from unit.cli.test_plan import manifest


def only(document: dict[str, Any]) -> str:
    [fault] = faults_of(document)
    return str(fault)


def test_a_valid_manifest_has_no_fault() -> None:
    assert faults_of(manifest()) == []


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        (
            {"training": {"gradientCheckpoint": True}},
            "spec.training.gradientCheckpoint: unknown field. Did you",
        ),
        (
            {"training": {"train_batch_size": 8}},
            "spec.training.train_batch_size: unknown field. Did you mean tr",
        ),
        ({"training": {"method": "sftt"}}, "spec.training.method: is 'sftt'. Use "),
        (
            {"training": {"maxLength": 4}},
            "spec.training.maxLength: Input should be greater than or equal to 8. C",
        ),
        ({"storage": "https://x/y"}, "spec.storage: 'https://x/y' is not allowed. Correct it: Folder for data"),
        ({"output": {}}, "spec.output.family: is required. Add it: "),
        (
            {"data": {"sources": [{"name": "a", "uri": "pvc://a/b", "zzz": 1}]}},
            "spec.data.sources[0].zzz: unknown",
        ),
    ],
)
def test_a_fault_names_the_field_and_the_fix(parts: dict[str, Any], fault: str) -> None:
    assert only(manifest(**parts)).startswith(fault)


def test_all_faults_are_told_at_once() -> None:
    document = manifest(training={"maxLength": 4, "methd": "sft"}, compute={"nodes": "two"})
    assert [fault.field for fault in faults_of(document)] == [
        "spec.training.methd",
        "spec.training.maxLength",
        "spec.compute.nodes",
    ]


@pytest.mark.parametrize("metadata", [None, {}, {"name": ""}, {"name": "A"}, {"name": "a" * 41}, {"name": "1st"}])
def test_the_name_is_checked(metadata: Any) -> None:
    assert only(manifest() | {"metadata": metadata}).startswith("metadata.name: ")


def test_another_version_of_the_api_is_told_alone() -> None:
    assert only(manifest(storage=3) | {"apiVersion": "driftloop.dev/v1"}).startswith(
        "apiVersion: is 'driftloop.dev/v1'"
    )

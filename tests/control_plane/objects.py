"""The smallest valid custom resources."""

from typing import Any


def finetunejob(name: str, **annotations: str) -> Any:
    """A FineTuneJob that pretrains."""
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {
            "model": {"from": {"uri": "pvc://models/base"}},
            "data": {"sources": [{"name": "rows", "uri": "pvc://data/rows.csv"}]},
            "storage": "pvc://data/out",
            "output": {"family": "family"},
        },
    }


def inferenceservice(name: str, triggers: list[Any] | None = None) -> Any:
    """An InferenceService, with retraining if `triggers` are given."""
    spec: dict[str, Any] = {"model": {"family": "family"}}
    if triggers is not None:
        spec["retraining"] = {"triggers": triggers, "jobTemplate": {"spec": finetunejob("any")["spec"]}}
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name},
        "spec": spec,
    }


def modelversion(name: str) -> Any:
    """An imported ModelVersion."""
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": name},
        "spec": {"family": "family", "artefact": {"uri": "hf://models/imported", "digest": "sha256:" + "0" * 64}},
    }

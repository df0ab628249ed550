import argparse
import subprocess
from pathlib import Path

import pytest
import yaml

from demo import manifests
from demo.reads import Obj
from driftloop.api.engine import Engine
from driftloop.api.finetunejob import Parallelism

ROOT = Path(__file__).parents[3]
EXAMPLES = ROOT / "examples/support-desk"


def documents() -> str:
    files = yaml.safe_load((EXAMPLES / "kustomization.yaml").read_text())["resources"]
    return "---\n".join((EXAMPLES / name).read_text() for name in files)


def trainings(text: str) -> list[Obj]:
    """The specs of all trainings: of the jobs, and of the service's retraining."""
    objects = list(yaml.safe_load_all(text))
    assert [each["kind"] for each in objects] == ["FineTuneJob", "FineTuneJob", "InferenceService"]
    *jobs, service = (each["spec"] for each in objects)
    return [*jobs, service["retraining"]["jobTemplate"]["spec"]]


@pytest.mark.parametrize(
    ("text", "axes"),
    [("pipeline=2", {"pipeline": 2}), ("dataReplicate=2, tensor=4", {"dataReplicate": 2, "tensor": 4})],
)
def test_the_parallelism_of_the_command_line_is_that_of_a_job(text: str, axes: Obj) -> None:
    assert manifests.parallelism(text) == axes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "pipelines=2",
            "'pipelines=2' is not AXIS=NUMBER with an axis of "
            "context, dataReplicate, pipeline, stagesPerWorker, tensor",
        ),
        ("pipeline", "'pipeline' is not AXIS=NUMBER"),
        ("pipeline=two", "'pipeline=two' is not AXIS=NUMBER"),
        ("", "'' is not AXIS=NUMBER"),
        ("tensor=0", "tensor: Input should be greater than or equal to 1"),
        ("pipeline=4,tensor=8", "'pipeline=4,tensor=8' needs 32 workers, more than the 16 of a node"),
    ],
)
def test_a_wrong_parallelism_is_refused_with_what_to_write(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        manifests.parallelism(text)


def test_every_training_of_the_demo_gets_the_parallelism() -> None:
    before, after = trainings(documents()), trainings(manifests.divided(documents(), {"pipeline": 2}))
    assert [spec["compute"]["parallelism"] for spec in after] == [{"pipeline": 2}] * 3
    for plain, changed in zip(before, after, strict=True):
        assert changed["compute"].pop("workersPerNode") == 1  # two nodes with one stage each
        del changed["compute"]["parallelism"]
        assert changed == plain


@pytest.mark.parametrize(
    ("nodes", "axes", "workers"),
    [
        (2, {"pipeline": 2}, 1),
        (1, {"pipeline": 2}, 2),  # the short form trains the base model on one node
        (2, {"tensor": 2}, 2),
        (2, {"pipeline": 2, "tensor": 2}, 2),
        (2, {"dataReplicate": 2, "context": 4}, 4),
        (3, {"context": 2}, 2),
    ],
)
def test_a_node_has_the_workers_that_the_parallelism_needs(nodes: int, axes: Obj, workers: int) -> None:
    assert manifests.workers_per_node(nodes, Parallelism.model_validate(axes)) == workers


def test_the_service_runs_on_vllm_by_the_operators_image_and_its_versions_are_judged_by_its_engine() -> None:
    before, after = (list(yaml.safe_load_all(text)) for text in (documents(), manifests.on_vllm(documents())))
    (*jobs, service), (*plain, plain_service) = after, before
    assert service["spec"].pop("engine") == manifests.VLLM
    assert service["spec"].pop("replicas") == 1
    del plain_service["spec"]["engine"], plain_service["spec"]["replicas"]
    assert [*jobs, service] == [*plain, plain_service]
    template = service["spec"]["retraining"]["jobTemplate"]["spec"]
    assert all("engine" not in job["evaluation"] for job in (plain[1]["spec"], template))  # the service's then
    Engine.model_validate(manifests.VLLM)


def test_the_makefile_passes_the_engine_on() -> None:
    command = ["make", "-n", "-o", ".venv/ready", "demo", "ENGINE=vllm"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--engine vllm" in shown


def test_the_makefile_passes_the_parallelism_on_as_one_argument() -> None:
    command = ["make", "-n", "-o", ".venv/ready", "demo", "PARALLELISM=pipeline=2 tensor=2"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--parallelism 'pipeline=2 tensor=2'" in shown

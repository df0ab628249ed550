"""`driftloop plan` prints the operator's plan without a cluster, or why a job is refused, and names wrong fields."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from driftloop.cli.decoder import MODEL_TYPES
from driftloop.cli.main import main
from driftloop.cli.manifests import Manifest
from driftloop.cli.plan import job_spec
from driftloop.controller.kinds.finetunejob.plan import TrainingPlan, plan
from unit.controller.kinds.finetunejob.test_plan import LLAMA_8B
from unit.controller.stages import prepared

EXAMPLES = Path(__file__).parents[3] / "examples/support-desk"
LLAMA_8B_CHUNKED = LLAMA_8B.model_copy(update={"chunked_loss": True})
LLAMA = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
}


def manifest(**parts: Any) -> dict[str, Any]:
    spec = {
        "model": {"from": {"uri": "pvc://shared/llama"}},
        "data": {"sources": [{"name": "rows", "uri": "pvc://shared/rows.csv"}]},
        "training": {"trainBatchSize": 256, "maxLength": 4096, "gradientCheckpointing": True},
        "compute": {"nodes": 1, "gpusPerNode": 8, "gpuMemory": "80Gi"},
        "storage": "pvc://shared/work",
        "output": {"family": "support"},
    } | parts
    return {"apiVersion": "driftloop.dev/v1alpha1", "kind": "FineTuneJob", "metadata": {"name": "tune"}, "spec": spec}


class Shell:
    """Runs `driftloop plan` on files in a folder."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder, self._capsys = folder, capsys
        self.config = self.write("config.json", json.dumps(LLAMA))

    def write(self, name: str, text: str) -> str:
        (self._folder / name).write_text(text)
        return str(self._folder / name)

    def plan(self, job: dict[str, Any], *options: str) -> tuple[int, str]:
        """The exit status and the output for a job whose model is LLAMA."""
        job_file = self.write("job.yaml", yaml.safe_dump(job))
        return self.run("-f", job_file, "--model-config", self.config, *options)

    def run(self, *options: str) -> tuple[int, str]:
        status = main(["plan", *options])
        return status, self._capsys.readouterr().out

    def refused(self, *options: str) -> str:
        """The error for wrong input."""
        with pytest.raises(SystemExit) as caught:
            main(["plan", *options])
        assert caught.value.code == 2
        return self._capsys.readouterr().err.rpartition("driftloop plan: error: ")[2]


@pytest.fixture
def shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(tmp_path, capsys)


def test_the_printed_plan_is_that_of_the_operator(shell: Shell) -> None:
    status, printed = shell.plan(manifest(), "--rows", "20000", "--longest-row", "1024")
    assert status == 0
    spec = job_spec(Manifest("job.yaml", manifest()))
    found = plan(spec, prepared(model=LLAMA_8B_CHUNKED, train_rows=20_000, sequences=0, longest_row_tokens=1024))
    assert isinstance(found, TrainingPlan)
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert lines["model"] == "llama, 8,030,261,248 parameters, all trained"
    assert lines["strategy"] == "fsdp8: 8 workers on 1 node, 8 GPUs per node"
    assert lines["batch"] == (
        "256 rows of up to 1,024 tokens per step; on each worker 1 micro-batch of up to "
        f"{found.per_device_train_batch_size} rows"
    )
    assert lines["reduction"] == "gradients are added up after every micro-batch"
    assert lines["steps"] == f"{found.status.total_steps}"
    assert lines["memory"] == "GiB per worker; 76.00 GiB available"
    for part, size in found.status.memory_bytes_per_worker.items():
        assert lines.get(part, "0.00").split()[0] == f"{size / 2**30:.2f}"


def test_what_does_not_fit_is_printed_with_the_change_that_fits(shell: Shell) -> None:
    status, printed = shell.plan(manifest(), "--gpu-memory", "16Gi")
    assert status == 1
    assert printed.startswith("DoesNotFit: a worker needs about ")
    assert printed.endswith("but it has only 15.20 GiB: it would fit with training.adapter.type: lora\n")


def test_the_plan_is_printed_as_json(shell: Shell) -> None:
    status, printed = shell.plan(manifest(), "-o", "json")
    found = json.loads(printed)
    assert (status, found["accepted"], found["plan"]["strategy"]) == (0, True, "fsdp8")
    status, printed = shell.plan(manifest(), "--gpu-memory", "16Gi", "-o", "json")
    found = json.loads(printed)
    assert (status, found["accepted"], found["reason"]) == (1, False, "DoesNotFit")


def test_rows_are_as_long_as_a_row_can_be_unless_their_length_is_given(shell: Shell) -> None:
    assert "rows of up to 4,096 tokens" in shell.plan(manifest())[1]
    assert "rows of up to 100 tokens" in shell.plan(manifest(), "--longest-row", "100")[1]
    assert "rows of up to 4,096 tokens" in shell.plan(manifest(), "--longest-row", "5000")[1]


def test_steps_are_known_from_rows_or_from_the_job(shell: Shell) -> None:
    training = {"trainBatchSize": 256, "gradientCheckpointing": True}
    assert "steps        unknown: set --rows\n" in shell.plan(manifest(training=training))[1]
    assert "steps        77\n" in shell.plan(manifest(training=training | {"maxSteps": 77}))[1]
    assert "steps        3\n" in shell.plan(manifest(training=training), "--rows", "256")[1]


def test_trained_parameters_of_an_adapter_are_counted(shell: Shell) -> None:
    training = {"adapter": {"type": "lora"}, "gradientCheckpointing": True}
    assert "llama, 8,072,204,288 parameters, 41,943,040 trained\n" in shell.plan(manifest(training=training))[1]


def test_float8_is_shown_or_refused(shell: Shell) -> None:
    training = {"float8": True, "gradientCheckpointing": True}
    assert "\nfloat8       the linear layers of each decoder layer\n" in shell.plan(manifest(training=training))[1]
    status, printed = shell.plan(manifest(training=training | {"adapter": {"type": "lora"}}))
    assert status == 1
    assert printed.startswith("Float8Unsupported: training.float8 is true, which needs all weights to be trained")


def test_the_items_that_each_gate_needs_are_printed(shell: Shell) -> None:
    old = {"name": "old", "kind": "retention", "items": "data"}
    suites = [old, {"name": "least", "kind": "floor", "uri": "pvc://shared/items.jsonl", "minimum": 0.9}]
    job = manifest(evaluation={"suites": suites})
    _, text = shell.plan(job, "--rows", "900")
    assert "old: retention, delta 0.05, look 1 may err in 3.04 %: 88 items at least, 340 for an equal version" in text
    assert "old: about 100 items, few" in text
    assert "least: floor, minimum 0.9, look 1 may err in 3.04 %: " in text
    assert "least: about" not in text
    assert "old: about 2,000 items, enough" in shell.plan(job, "--rows", "20000")[1]
    assert "about" not in shell.plan(job)[1]
    document = json.loads(shell.plan(job, "--rows", "900", "-o", "json")[1])
    expected = {"name": "old", "kind": "retention", "delta": 0.05, "least": 88, "planned": 340}
    assert document["gates"][0] == expected | {"items": 100, "enough": "Rarely"}


def test_a_new_model_is_planned_from_the_manifest_alone(shell: Shell) -> None:
    status, printed = shell.run("-f", str(EXAMPLES / "base.yaml"))
    assert status == 0
    assert "strategy     fsdp2: 2 workers on 2 nodes, 1 worker per node\n" in printed
    assert "MiB per worker; 3,072 MiB available" in printed
    error = shell.refused("-f", str(EXAMPLES / "base.yaml"), "--model-config", shell.config)
    assert "spec.model.from.config" in error


def test_a_manifest_is_read_from_standard_input(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(yaml.safe_dump(manifest())))
    assert shell.run("-f", "-", "--model-config", shell.config)[0] == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("kind: Pod"))
    assert shell.refused("-f", "-").startswith("standard input: has 0 objects of kind FineTuneJob")


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"training": {"maxLength": 4}}, "spec.training.maxLength: Input should be greater than or equal to 8"),
        ({"compute": {"nodes": "two"}}, "spec.compute.nodes: Input should be a valid integer"),
        (
            {"training": {"gradientCheckpoint": True}},
            "spec.training.gradientCheckpoint: unknown field. Did you mean gradientCheckpointing?",
        ),
        (
            {"data": {"sources": [{"name": "a", "uri": "pvc://a/b", "url": "x"}]}},
            "spec.data.sources[0].url: unknown field. Did you mean uri?",
        ),
        ({"output": None}, "spec.output: "),
        ({"training": {"adapter": {"type": "lora", "targetModules": ["query"]}}}, "training.adapter.targetModules: "),
    ],
)
def test_a_wrong_field_of_the_manifest_is_named(shell: Shell, parts: dict[str, Any], error: str) -> None:
    job_file = shell.write("job.yaml", yaml.safe_dump(manifest(**parts)))
    assert error in shell.refused("-f", job_file, "--model-config", shell.config)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("spec: [", "job.yaml: "),
        (yaml.safe_dump({"kind": "FineTuneJob", "apiVersion": "v1", "spec": {}}), "apiVersion: is 'v1', but must be"),
        (yaml.safe_dump_all([manifest(), manifest()]), "has 2 objects of kind FineTuneJob"),
        (yaml.safe_dump(manifest() | {"spec": None}), "spec: Input should be"),
    ],
)
def test_a_file_that_is_not_one_job_is_refused(shell: Shell, text: str, error: str) -> None:
    assert error in shell.refused("-f", shell.write("job.yaml", text), "--model-config", shell.config)


@pytest.mark.parametrize(
    ("config", "error"),
    [
        ("{", "config.json: "),
        ("[]", "config.json: not the configuration of a model"),
        (json.dumps(LLAMA | {"model_type": "mixtral"}), "config.json: model_type 'mixtral' can't be counted"),
        (json.dumps(LLAMA | {"hidden_size": "wide"}), "config.json: hidden_size: Input should be a valid integer"),
    ],
)
def test_a_wrong_configuration_is_named(shell: Shell, config: str, error: str) -> None:
    job_file = shell.write("job.yaml", yaml.safe_dump(manifest()))
    assert error in shell.refused("-f", job_file, "--model-config", shell.write("config.json", config))


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--gpu-memory", "much"], "--gpu-memory: 'much' is not a quantity such as 80Gi"),
        (["--rows", "0"], "argument --rows: '0' is not a positive number"),
        (["--longest-row", "x"], "argument --longest-row: 'x' is not a positive number"),
        (["--model-config", "/nowhere"], "/nowhere: "),
        ([], "--model-config: set it to the config.json"),
    ],
)
def test_a_wrong_option_is_named(shell: Shell, options: list[str], error: str) -> None:
    assert error in shell.refused("-f", shell.write("job.yaml", yaml.safe_dump(manifest())), *options)


def test_the_memory_of_a_gpu_needs_a_gpu(shell: Shell) -> None:
    job_file = shell.write("job.yaml", yaml.safe_dump(manifest(compute={"nodes": 1})))
    assert "spec.compute.gpusPerNode" in shell.refused("-f", job_file, "--gpu-memory", "80Gi")


def test_the_example_in_the_docs_is_what_is_printed(shell: Shell) -> None:
    documented = " ".join((EXAMPLES.parents[1] / "docs/install.md").read_text().split())
    for options in (["--gpu-memory", "80Gi", "--rows", "20000"], ["--gpu-memory", "16Gi"]):
        assert " ".join(shell.plan(manifest(), *options)[1].split()) in documented


def test_the_help_names_every_option_and_the_models_that_can_be_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["plan", "--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    for word in ("--filename", "--model-config", "--gpu-memory", "--rows", "--longest-row", *MODEL_TYPES):
        assert word in printed


def test_other_nodes_and_gpus_are_planned_in_place_of_the_manifests(shell: Shell) -> None:
    status, printed = shell.plan(manifest(), "--nodes", "2", "--gpus-per-node", "4")
    assert status == 0
    assert "8 workers on 2 nodes, 4 GPUs per node" in printed
    on_cpus = manifest(compute={"nodes": 1, "workersPerNode": 2})
    assert "4 GPUs per node" in shell.plan(on_cpus, "--gpus-per-node", "4", "--gpu-memory", "80Gi")[1]
    assert shell.plan(manifest())[1] == shell.plan(manifest(), "--nodes", "1", "--gpus-per-node", "8")[1]


WORKERS = [
    ({}, ("--nodes", "1000"), "compute.nodes: Input should be less than or equal to 512"),
    ({}, ("--gpus-per-node", "17"), "compute.gpusPerNode: Input should be less than or equal to 16"),
    ({"parallelism": {"tensor": 8}}, ("--gpus-per-node", "4"), "tensor is 8, which does not divide the 4 workers"),
    ({"parallelism": {"pipeline": 8}}, ("--gpus-per-node", "3"), "compute.parallelism does not divide 3 workers"),
    ({"nodes": 4, "elastic": {"minNodes": 2}}, ("--nodes", "1"), "compute.elastic.minNodes is 2, more than 1 node"),
]


@pytest.mark.parametrize(("compute", "options", "message"), WORKERS)
def test_nodes_on_which_the_api_would_refuse_the_job_are_refused(
    compute: dict[str, Any], options: tuple[str, str], message: str, shell: Shell
) -> None:
    job = manifest(compute={"nodes": 1, "gpusPerNode": 8, "gpuMemory": "80Gi"} | compute)
    error = shell.refused("-f", shell.write("job.yaml", yaml.safe_dump(job)), "--model-config", shell.config, *options)
    assert error.startswith("--nodes, --gpus-per-node: ")
    assert message in error


def test_the_plan_says_why_each_axis_and_whether_it_is_tested(shell: Shell) -> None:
    printed = shell.plan(manifest())[1]
    assert "replicate: there is one node" in printed
    assert "exactness    exact: a test compares this with plain training: llama, sft, compiled, fsdp" in printed
    assert "attention    sdpa: " in printed
    parallelism = {"parallelism": {"pipeline": 2, "dataReplicate": 2, "tensor": 2}}
    untested = manifest(compute={"nodes": 1, "gpusPerNode": 16, "gpuMemory": "80Gi"} | parallelism)
    assert "exactness    untested: no test compares" in shell.plan(untested)[1]

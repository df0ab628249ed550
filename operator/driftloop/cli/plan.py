"""Prints the plan that the operator would make for a FineTuneJob, without a cluster: `driftloop plan`."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from pydantic import ValidationError

from driftloop.api.finetunejob import Compute, FineTuneJob, FineTuneJobSpec, PlanStatus
from driftloop.cli.decoder import MODEL_TYPES, UnknownModel, decoder_facts
from driftloop.cli.exits import Exit
from driftloop.cli.faults import faults_of, from_errors
from driftloop.cli.items import gate_plans
from driftloop.cli.manifests import BadInput, Manifest, one_job, read_text
from driftloop.cli.options import add_output, positive
from driftloop.cli.program import usage
from driftloop.contract.result import ModelFacts, PrepareResult
from driftloop.controller.kinds.finetunejob.cells import AXES
from driftloop.controller.kinds.finetunejob.plan import Refusal, TrainingPlan
from driftloop.controller.kinds.finetunejob.remedies import plan_or_remedy

Json = dict[str, Any]
NO_DIGEST = "sha256:" + "0" * 64
LABEL_WIDTH = 13
SMALL = 8 << 30  # below this, memory is shown in MiB
REDUCTION = {"step": "once per step", "microBatch": "after every micro-batch"}
NOTES = {"training": "  at one time", "loading": "  before training", "export": "  after training"}


@dataclass(frozen=True)
class Question:
    """What to plan: a job, its model, and its data as far as they are known."""

    spec: FineTuneJobSpec
    model: ModelFacts
    rows: int | None
    longest_row: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a plan. Returns 0, or 1 if the operator would refuse the job."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        question = _question(parsed)
    except BadInput as error:
        parser.error(str(error))
    match plan_or_remedy(question.spec, _data(question)):
        case Refusal(reason, message):
            document: Json = {"accepted": False, "reason": reason, "message": message}
            text, status = f"{reason}: {message}", Exit.FAILED
        case TrainingPlan() as found:
            gates = [gate.dump() for gate in gate_plans(question.spec, question.rows)]
            document = {"accepted": True, "model": question.model.model_type, "plan": found.status.dump()}
            document |= {"gates": gates} if gates else {}
            text, status = "\n".join(described(question, found)), Exit.DONE
        case never:
            assert_never(never)
    print(json.dumps(document, indent=2) if parsed.output == "json" else text)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=usage("plan"),
        description="Prints the plan that the operator would make for a FineTuneJob, without a cluster: how the model "
        "is sharded, rows per forward pass, steps, and the memory of a worker by purpose. If the training does not "
        "fit into the memory, prints the smallest change that would fit.",
        epilog="Exit status: 0 if the job can be trained, 1 if the operator would refuse it, 2 if a file or an option "
        f"is wrong. Models that can be counted from a config.json: {', '.join(MODEL_TYPES)}.",
    )
    parser.add_argument(
        "-f", "--filename", required=True, metavar="FILE", help="manifest of the FineTuneJob; - reads standard input"
    )
    parser.add_argument(
        "--model-config",
        type=Path,
        metavar="FILE",
        help="config.json of the model that training starts from. Not needed if the manifest has model.from.config",
    )
    parser.add_argument("--nodes", type=positive, metavar="N", help="pods, in place of compute.nodes")
    parser.add_argument(
        "--gpus-per-node", type=positive, metavar="N", help="GPUs per pod, in place of compute.gpusPerNode"
    )
    parser.add_argument(
        "--gpu-memory",
        metavar="QUANTITY",
        help="memory of one GPU, such as 80Gi, in place of compute.gpuMemory. If neither is set, the operator reads "
        "the nodes' label, which is unknown here",
    )
    parser.add_argument(
        "--rows",
        type=positive,
        metavar="N",
        help="training rows after cleaning, or with packing the sequences of maxLength tokens: decides the number of "
        "steps",
    )
    parser.add_argument(
        "--longest-row",
        type=positive,
        metavar="TOKENS",
        help="tokens of the longest row. By default training.maxLength, the most that a row can have",
    )
    add_output(parser)
    return parser


def _question(parsed: argparse.Namespace) -> Question:
    spec = _on_other_nodes(job_spec(one_job([parsed.filename])), parsed.nodes, parsed.gpus_per_node)
    if parsed.gpu_memory is not None:
        spec = _with_gpu_memory(spec, parsed.gpu_memory)
    model = _facts(spec, parsed.model_config)
    return Question(spec, model, parsed.rows, parsed.longest_row or spec.training.max_length)


def _on_other_nodes(spec: FineTuneJobSpec, nodes: int | None, gpus: int | None) -> FineTuneJobSpec:
    """The job with these nodes and GPUs. Raises BadInput if the API would refuse the number, or the job on it."""
    changes = {"nodes": nodes} if nodes is not None else {}
    changes |= {"gpusPerNode": gpus, "workersPerNode": 1} if gpus is not None else {}
    if not changes:
        return spec
    try:
        compute = Compute.model_validate(spec.compute.dump() | changes)
    except ValidationError as error:
        faults = "; ".join(f"compute.{fault}" for fault in from_errors(error))
        raise BadInput(f"--nodes, --gpus-per-node: {faults}") from error
    if fault := _undivided(compute):
        raise BadInput(f"--nodes, --gpus-per-node: {fault}")
    return spec.model_copy(update={"compute": compute})


def _undivided(compute: Compute) -> str | None:
    """Why the axes of the job don't divide these workers, as the rules of the API say; None if they do."""
    axes, in_node = compute.axes, compute.gpus_per_node or compute.workers_per_node
    if compute.elastic is not None and compute.elastic.min_nodes > compute.nodes:
        return f"compute.elastic.minNodes is {compute.elastic.min_nodes}, more than {compute.nodes} nodes"
    if in_node % axes.tensor:
        return f"compute.parallelism.tensor is {axes.tensor}, which does not divide the {in_node} workers of a node"
    if compute.nodes * in_node % (axes.pipeline * axes.data_replicate * axes.context * axes.tensor):
        return f"compute.parallelism does not divide {compute.nodes * in_node} workers"
    return None


def _with_gpu_memory(spec: FineTuneJobSpec, memory: str) -> FineTuneJobSpec:
    if not spec.compute.gpus_per_node:
        raise BadInput("--gpu-memory: the job trains on CPUs; set spec.compute.gpusPerNode, or --gpus-per-node")
    try:
        compute = Compute.model_validate(spec.compute.dump() | {"gpuMemory": memory})
    except ValidationError as error:
        raise BadInput(f"--gpu-memory: {memory!r} is not a quantity such as 80Gi") from error
    return spec.model_copy(update={"compute": compute})


def job_spec(manifest: Manifest) -> FineTuneJobSpec:
    """The spec of a FineTuneJob. Raises BadInput with the fields that are wrong."""
    if faults := faults_of(manifest.document):
        raise BadInput("; ".join(f"{manifest.source}: {fault}" for fault in faults))
    return FineTuneJob.model_validate(manifest.document).spec


def _facts(spec: FineTuneJobSpec, path: Path | None) -> ModelFacts:
    """The facts of the job's model: of the configuration in its manifest, or of a config.json."""
    new = spec.model.from_.config
    if new is not None and path is not None:
        raise BadInput("--model-config: the manifest has the configuration of a new model in spec.model.from.config")
    if new is not None:
        fields: Mapping[str, Any] = {**new.architecture, "vocab_size": new.tokenizer.vocab_size}
        name = "spec.model.from.config.architecture"
    elif path is not None:
        fields, name = _config(path), str(path)
    else:
        raise BadInput("--model-config: set it to the config.json of the model that spec.model.from names")
    try:
        return decoder_facts(fields, spec.training.adapter)
    except ValidationError as error:
        raise BadInput("; ".join(f"{name}: {fault}" for fault in from_errors(error))) from error
    except UnknownModel as error:
        raise BadInput(f"{name}: {error}") from error


def _config(path: Path) -> Json:
    try:
        fields = json.loads(read_text(str(path)))
    except json.JSONDecodeError as error:
        raise BadInput(f"{path}: {error}") from error
    if not isinstance(fields, dict):
        raise BadInput(f"{path}: not the configuration of a model")
    return fields


def _data(question: Question) -> PrepareResult:
    """The result that prepare would report. Only what the plan reads has a meaning."""
    rows = question.rows or question.spec.training.train_batch_size
    tokens = rows * question.longest_row
    return PrepareResult(
        uri="",
        digest=NO_DIGEST,
        train_rows=rows,
        held_out_rows=0,
        tokens=tokens,
        trained_tokens=tokens,
        longest_row_tokens=question.longest_row,
        tokenizer_digest=NO_DIGEST,
        model=question.model,
    )


def described(question: Question, planned: TrainingPlan) -> Iterator[str]:
    """The lines that describe a plan."""
    status, reasons = planned.status, planned.status.reasons or {}
    yield _line("model", f"{question.model.model_type}, {status.parameters:,} parameters, {_trained(status)} trained")
    yield _line("strategy", _strategy(question.spec.compute, planned))
    yield _line("", reasons["strategy"])
    yield from (_line("", f"{axis}: {reasons[axis]}") for axis in AXES if axis != "stages")
    yield _line("exactness", reasons["exactness"])
    yield _line("batch", _batch(question, planned))
    yield _line("", reasons["perDeviceTrainBatchSize"])
    if status.world_size > 1:
        yield _line("reduction", f"gradients are added up {REDUCTION[status.gradient_reduction]}")
    if status.attention is not None and status.kernels is not None:
        yield _line("attention", f"{status.attention}: {reasons['attention']}")
        yield _line("kernels", f"{status.kernels}: {reasons['kernels']}")
    if status.compile:
        yield _line("compiled", "each decoder layer and the loss")
    if status.float8:
        yield _line("float8", "the linear layers of each decoder layer")
    known = question.rows is not None or question.spec.training.max_steps is not None
    yield _line("steps", f"{status.total_steps:,}" if known else "unknown: set --rows")
    yield from _memory(status)
    for number, text in enumerate(line for gate in gate_plans(question.spec, question.rows) for line in gate.text()):
        yield _line("" if number else "gates", text)


def _trained(status: PlanStatus) -> str:
    return "all" if status.trainable_parameters == status.parameters else f"{status.trainable_parameters:,}"


def _strategy(compute: Compute, planned: TrainingPlan) -> str:
    status, device = planned.status, "GPU" if compute.gpus_per_node else "worker"
    return (
        f"{status.strategy}: {_number(status.world_size, 'worker')} on {_number(compute.nodes, 'node')}, "
        f"{_number(planned.workers_per_node, device)} per node"
    )


def _batch(question: Question, planned: TrainingPlan) -> str:
    training, status = question.spec.training, planned.status
    row = "sequence" if training.packing else "row"
    tokens = training.max_length if training.packing else min(training.max_length, question.longest_row)
    return (
        f"{_number(training.train_batch_size, row)} of up to {tokens:,} tokens per step; on each worker "
        f"{_number(status.gradient_accumulation_steps, 'micro-batch', 'micro-batches')} of up to "
        f"{_number(planned.per_device_train_batch_size, row)}"
    )


def _memory(status: PlanStatus) -> Iterator[str]:
    """The memory of a worker by purpose, without what it doesn't need."""
    parts, available = status.memory_bytes_per_worker, status.available_bytes_per_worker
    unit, size_of = ("GiB", _gib) if parts["total"] >= SMALL else ("MiB", _mib)
    limit = "the limit is unknown" if available is None else f"{size_of(available)} {unit} available"
    yield _line("memory", f"{unit} per worker; {limit}")
    for name, size in parts.items():
        if size:
            yield f"  {name:<{LABEL_WIDTH - 2}}{size_of(size):>8}{NOTES.get(name, '')}"
    if pod := status.memory_bytes_per_pod:
        yield _line("pod memory", f"{size_of(pod['total'])} {unit} of each pod, beside its GPUs")


def _line(label: str, text: str) -> str:
    return f"{label:<{LABEL_WIDTH}}{text}"


def _number(count: int, one: str, many: str | None = None) -> str:
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f}"


def _mib(size: int) -> str:
    return f"{size / 2**20:,.0f}"

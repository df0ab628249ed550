"""Which layers multiply in float8, how near that is to bfloat16, what it leaves, and on which devices it is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.utils import counters
from torchao.float8.float8_linear import Float8Linear
from transformers import AutoModelForCausalLM

from driftloop.contract.names import EXIT_BAD_INPUT
from driftloop_trainer.compiler import has_compiler
from driftloop_trainer.dataset import FILE, Dataset
from driftloop_trainer.models import config_for, decoder_layers
from driftloop_trainer.train.assignment import Assignment
from driftloop_trainer.train.progress import Progress
from driftloop_trainer.train.run import Position, Run
from driftloop_trainer.train.worker import worker
from driftloop_trainer.train.worker.compiled import compile_layers
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.float8 import lacking_gpu, use_float8
from driftloop_trainer.train.worker.loading import ShardedModel, load_sharded
from driftloop_trainer.train.worker.loop import Loop, build_optimizer
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.train.worker.methods.nexttoken import NextToken
from unit.trainer import templates
from unit.trainer.prepare.test_folder import folder, prepared
from unit.trainer.train.worker.test_export import ROWS, task

pytestmark = pytest.mark.usefixtures("one_rank")

SIZES = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
MODEL = SIZES | {"model_type": "llama", "num_key_value_heads": 2, "max_position_embeddings": 128}
STEPS, NEAR = 10, 0.02  # relative difference of a loss; 0.0071 was the largest


def trained(volume: Path, float8: bool) -> tuple[list[float], ShardedModel]:
    """The losses of ten steps in bfloat16, and the model after them."""
    rates = {"learningRate": 3e-3, "lrSchedulerType": "constant", "warmupRatio": 0}
    job = task(volume, trainBatchSize=4, numTrainEpochs=STEPS, saveSteps=1000, bf16=True, float8=float8, **rates)
    device, mesh = torch.device("cpu"), Mesh.of("cpu")
    sharded = load_sharded(volume / "base", "pvc://claim/base", job.training, mesh, device)
    losses: list[float] = []

    def report(progress: Progress) -> None:
        losses.append(progress.loss)

    loop = Loop(job.training, NextToken(Dataset(folder(volume) / FILE), 0), 2, STEPS, device, mesh)
    optimizer = build_optimizer(sharded.model, job.training)
    loop.run(sharded.model, optimizer, Run(f"{job.runs}-{float8}", "token"), Position(), report)
    return losses, sharded


def test_ten_steps_are_near_those_in_bfloat16_and_the_exported_weights_have_no_float8(
    volume: Path, tmp_path: Path
) -> None:
    prepared(volume, ROWS, templates.CHATML, architecture=MODEL)
    half, _ = trained(volume, float8=False)
    eighth, sharded = trained(volume, float8=True)
    assert len(half) == len(eighth) == STEPS
    assert half[-1] < 0.8 * half[0]
    assert half != eighth
    assert eighth == pytest.approx(half, rel=NEAR)
    job = task(volume, float8=True)
    export(sharded, Export(job, volume / "base", folder(volume), {}, job.output), tmp_path)
    version = volume / "versions" / "uid"
    before, after = (load_file(path / "model.safetensors") for path in (volume / "base", version))
    assert {name: (w.dtype, w.shape) for name, w in before.items()} == {
        name: (w.dtype, w.shape) for name, w in after.items()
    }
    assert not any(
        isinstance(module, Float8Linear) for module in AutoModelForCausalLM.from_pretrained(version).modules()
    )
    assert "| linear layers | multiplied in float8 (e4m3, a scale per row) |" in (version / "README.md").read_text()


def small(**fields: Any) -> Any:
    torch.manual_seed(0)
    config = config_for(MODEL | {"vocab_size": 64, "tie_word_embeddings": False} | fields)
    return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]


def names_in_float8(model: nn.Module) -> set[str]:
    return {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, Float8Linear)}


def test_the_linear_layers_of_decoder_layers_multiply_in_float8_if_their_sizes_allow_it() -> None:
    attention, mlp = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"}
    model = small()
    weights = set(model.state_dict())
    use_float8(decoder_layers(model), emulate=True)
    assert names_in_float8(model) == attention | mlp  # not the output layer
    assert set(model.state_dict()) == weights
    odd = small(intermediate_size=168)
    use_float8(decoder_layers(odd), emulate=True)
    assert names_in_float8(odd) == attention


def kept(float8: bool, backend: str | None) -> dict[torch.dtype, int]:
    """Bytes that the forward pass keeps for the backward pass besides the weights, by their type."""
    model = small()
    if float8:
        use_float8(decoder_layers(model), emulate=True)
    if backend is not None:
        torch._dynamo.reset()
        counters.clear()
        compile_layers(model, backend)
    storages: dict[int, torch.Tensor] = {}
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(torch.arange(48).reshape(2, 24), use_cache=False)
    if backend is not None:
        assert counters["frames"]["ok"] == counters["frames"]["total"] > 0
    found: dict[torch.dtype, int] = {}
    for place, tensor in storages.items():
        if place not in weights:
            found[tensor.dtype] = found.get(tensor.dtype, 0) + tensor.untyped_storage().nbytes()
    return found


COMPILER = pytest.mark.skipif(not has_compiler(), reason="torch compiles for CPUs with g++: apt-get install g++")
INDUCTOR = pytest.param("inductor", marks=(COMPILER, pytest.mark.long("exactness")))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("backend", [None, "aot_eager", INDUCTOR])
def test_the_backward_pass_keeps_the_same_as_in_bfloat16_as_the_plan_counts(backend: str | None) -> None:
    assert kept(True, backend) == kept(False, backend)


def capability(major: int, minor: int) -> Any:
    """A GPU, as there is none here."""
    return patch.multiple(
        torch.cuda,
        get_device_capability=lambda _: (major, minor),
        get_device_name=lambda _: "NVIDIA A100-SXM4-80GB",
    )


@pytest.mark.parametrize(("found", "accepted"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_a_gpu_without_float8_is_refused_with_its_name(found: tuple[int, int], accepted: bool) -> None:
    with capability(*found):
        failure = lacking_gpu(torch.device("cuda", 0))
    if accepted:
        assert failure is None
        return
    assert failure is not None
    assert (failure.reason, failure.exit_code) == ("Float8Unsupported", EXIT_BAD_INPUT)
    has = ".".join(map(str, found))
    assert f"the GPU NVIDIA A100-SXM4-80GB has compute capability {has}, and float8 needs 8.9" in failure.message
    assert failure.message.endswith("remove training.float8, or choose other nodes with podOverrides.nodeSelector")


def test_a_worker_without_a_gpu_ends_the_training_before_it_loads_the_model(volume: Path) -> None:
    prepared(volume, ROWS, templates.CHATML, architecture=MODEL)
    reported: Callable[[Progress], None] = lambda _: None  # noqa: E731
    with patch.object(worker, "_load", side_effect=AssertionError):
        outcome = worker.work(Assignment(task(volume, float8=True), "0000-a", board=None), reported)
    assert outcome.failure is not None
    assert str(outcome.failure).startswith("Float8Unsupported: training.float8 is true, but a worker computes on cpu")

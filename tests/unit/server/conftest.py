"""A tiny random Llama with its tokenizer, and the server's own processes around it."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from driftloop.cli.gating.ports import free_ports
from driftloop.contract.task import DoorTask, ServeTask
from driftloop.contract.textstats import PROFILE, build_profile
from driftloop.podlib.storage import publish
from unit.server.processes import KEYS, Artefact, Process, Start, answers, start, wait_for

CONTEXT = 256
WORDS = ["my card has not arrived yet", "café naïve 東京 🙂", "I want to top up my account", "refund, please!"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(WORDS * 4, trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>", chat_template=CHAT_TEMPLATE
    )


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of 0.2M parameters, the same in every run."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,  # the default's logits lie so close together that greedy choices are ties
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    prompts = [f"{word} {i % 7}" for i in range(50) for word in WORDS]
    (folder / PROFILE).write_text(json.dumps(build_profile(prompts)))
    return folder


@pytest.fixture(scope="session")
def artefact(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    volumes = tmp_path_factory.mktemp("volumes")
    target = volumes / "models" / "tiny"
    os.environ["DRIFTLOOP_VOLUMES"] = str(volumes)
    try:
        digest = publish(model_folder, "pvc://models/tiny").digest
    finally:
        del os.environ["DRIFTLOOP_VOLUMES"]
    assert target.is_dir()
    return Artefact(volumes, "pvc://models/tiny", digest)


@pytest.fixture(scope="session")
def serve_task(artefact: Artefact) -> ServeTask:
    """The task of a pod that serves the tiny model; ports are to be chosen."""
    return ServeTask(
        namespace="support",
        service="desk",
        service_uid="5f0c9a0e-1111-4222-8333-444455556666",
        family="desk",
        version="desk-0a1b2c3d",
        revision="r1",
        artefact_uri=artefact.uri,
        artefact_digest=artefact.digest,
        model_dir=str(artefact.folder),
        max_num_seqs=8,
        drain_seconds=20,
    )


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on now."""
    return free_ports(1)[0]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Start]:
    """Starts a container's process: `launch(module, task, *args, **environment)`."""
    started: list[Process] = []

    def run(module: str, task: ServeTask | DoorTask, *args: str, **environment: str) -> Process:
        started.append(start(module, task, tmp_path / f"{len(started)}.log", *args, **environment))
        return started[-1]

    yield run
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def engine(serve_task: ServeTask, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The engine, running for the whole session."""
    (port,) = free_ports(1)
    output = tmp_path_factory.mktemp("engine") / "engine.log"
    process = start("engine", serve_task.model_copy(update={"engine_port": port}), output)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") or process.popen.poll() is not None)
        assert process.popen.poll() is None, output.read_text()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="session")
def pods(
    engine: Process, serve_task: ServeTask, artefact: Artefact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Start]:
    """Starts a proxy before the engine, as in one more pod of the service; ready when returned."""
    started: list[Process] = []
    folder = tmp_path_factory.mktemp("pods")

    def pod(*args: str, ready: bool = True, environment: dict[str, str] | None = None, **changes: object) -> Process:
        api, feedback, metrics = free_ports(3)
        ports = {"engine_port": engine.ports["engine"], "api_port": api, "feedback_port": feedback}
        task = serve_task.model_copy(
            update=ports | {"metrics_port": metrics, "feedback_uri": "pvc://feedback/desk"} | changes
        )
        variables = {"DRIFTLOOP_VOLUMES": str(artefact.volumes)} | KEYS | (environment or {})
        process = start("proxy", task, folder / f"{len(started)}.log", *args, **variables)
        started.append(process)
        probe = f"http://127.0.0.1:{metrics}/{'readyz' if ready else 'healthz'}"
        wait_for(lambda: answers(probe) or process.popen.poll() is not None)
        assert process.popen.poll() is None, process.output.read_text()
        return process

    yield pod
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def proxy(pods: Start) -> Process:
    """A pod of the service, running for the whole session."""
    return pods()

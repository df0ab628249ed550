"""A tiny random Llama with its tokenizer, and the server's own processes around it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from driftloop.contract.storage import publish
from driftloop.contract.task import ServeTask, encode
from driftloop.contract.textstats import PROFILE, build_profile

CONTEXT = 256
WORDS = ["my card has not arrived yet", "café naïve 東京 🙂", "I want to top up my account", "refund, please!"]
TOKEN = "the-feedback-token-of-desk"
KEYS = {"DRIFTLOOP_SIGNING_KEY": "the-signing-key-of-desk", "DRIFTLOOP_FEEDBACK_TOKEN": TOKEN}
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@dataclass
class Artefact:
    """A published model: `uri` is below the folder `volumes`."""

    volumes: Path
    uri: str
    digest: str

    @property
    def folder(self) -> Path:
        return self.volumes / self.uri.removeprefix("pvc://")


@dataclass
class Process:
    """A process of ours, with its output in a file."""

    popen: subprocess.Popen[bytes]
    output: Path
    ports: dict[str, int] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports['api']}"

    def metrics(self) -> dict[str, float]:
        """Every sample of the metrics port by name and labels, as they are written."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}/metrics", timeout=5) as response:
            lines = response.read().decode().splitlines()
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}

    def metric(self, name: str, **labels: str) -> float:
        """The one sample of `name` that carries `labels`."""
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        (found,) = (
            value
            for series, value in self.metrics().items()
            if series.split("{")[0] == name and all(label in series for label in wanted)
        )
        return found

    def terminate(self) -> None:
        self.popen.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        self.popen.kill()
        self.popen.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


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
    return PreTrainedTokenizerFast(
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


def start(module: str, task: ServeTask, output: Path, *args: str, **environment: str) -> Process:
    """Run one of the pod's containers as a process."""
    variables = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "1",
        "DRIFTLOOP_TASK": encode(task),
        "DRIFTLOOP_TERMINATION_LOG": str(output.with_suffix(".termination")),
    } | environment
    with output.open("wb") as stream:
        popen = subprocess.Popen(
            [sys.executable, "-m", f"driftloop_server.{module}", *args], env=variables, stdout=stream, stderr=stream
        )
    ports = {name: getattr(task, f"{name}_port") for name in ("engine", "api", "feedback", "metrics")}
    return Process(popen, output, ports)


@pytest.fixture
def free_port() -> int:
    """A port that nobody listens on now."""
    return free_ports(1)[0]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts a container's process: `launch(module, task, *args, **environment)`."""
    started: list[Process] = []

    def run(module: str, task: ServeTask, *args: str, **environment: str) -> Process:
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
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health") or process.popen.poll() is not None, 60)
        assert process.popen.poll() is None, output.read_text()
        yield process
    finally:
        process.stop()


@pytest.fixture(scope="session")
def pods(
    engine: Process, serve_task: ServeTask, artefact: Artefact, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Process]]:
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
        wait_for(lambda: answers(f"http://127.0.0.1:{metrics}/{'readyz' if ready else 'healthz'}"))
        return process

    yield pod
    for process in started:
        process.stop()


@pytest.fixture(scope="session")
def proxy(pods: Callable[..., Process]) -> Process:
    """A pod of the service, running for the whole session."""
    return pods()

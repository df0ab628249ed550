"""The proxy compared with the engine alone.

    PYTHONPATH=tests python bench/serving.py [--rounds N] [--clients 1 8]

Both serve a model of the demo's size with random weights on this machine's CPU, with the same greedy chats of
`--tokens` tokens. They alternate, one round each, so that load on the machine affects both. Prints the medians over the
rounds of tokens per second, and of the median and the 99th percentile of the latency, and the differences.
"""

import argparse
import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import aiohttp
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from driftloop.contract.task import ServeTask
from driftloop.podlib.storage import publish
from unit.server.conftest import tiny_tokenizer
from unit.server.processes import KEYS, Process, answers, free_ports, start, wait_for

SIZES = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
VERSION = "bench"
Request = tuple[str, dict[str, Any]]  # a route below /v1, and fields of the body


@dataclass(frozen=True)
class Figures:
    """Results of one round: generated tokens per second, and median and 99th percentile of the latency in ms."""

    tokens: float
    p50: float
    p99: float


def save_model(folder: Path) -> None:
    """Write a model of the demo's size with random weights, and a tokenizer with a chat template."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=2048,
        tie_word_embeddings=True,
        max_position_embeddings=512,
        initializer_range=0.2,  # with the default, the likeliest tokens are nearly ties
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        **SIZES,  # type: ignore[arg-type]
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def servers(folder: Path) -> Iterator[dict[str, str]]:
    """Start the servers. Returns their base addresses by name."""
    with contextlib.ExitStack() as stack:
        pod = _pod(folder, stack)
        yield {"engine": f"http://127.0.0.1:{pod.ports['engine']}", "proxy": pod.url}


def _pod(folder: Path, stack: contextlib.ExitStack) -> Process:
    """Start engine and proxy, like in a pod of a service."""
    model = folder / "volumes" / "models" / VERSION
    save_model(folder / "model")
    os.environ["DRIFTLOOP_VOLUMES"] = str(folder / "volumes")
    digest = publish(folder / "model", f"pvc://models/{VERSION}").digest
    task = serve_task(f"pvc://models/{VERSION}", digest, model)
    for module in ("engine", "proxy"):
        process = start(module, task, folder / f"{module}.log", **KEYS)
        stack.callback(process.stop)
    wait_for(lambda: answers(f"http://127.0.0.1:{task.metrics_port}/readyz"), 120)
    return process


def serve_task(uri: str, digest: str, model: Path, **fields: Any) -> ServeTask:
    """A task to serve the model at `uri`, already fetched to `model`, on free ports."""
    engine, api, feedback, metrics = free_ports(4)
    return ServeTask(
        namespace="bench",
        service="bench",
        service_uid="5f0c9a0e-1111-4222-8333-444455556666",
        family="bench",
        version=VERSION,
        revision="r1",
        artefact_uri=uri,
        artefact_digest=digest,
        model_dir=str(model),
        engine_port=engine,
        api_port=api,
        feedback_port=feedback,
        metrics_port=metrics,
        drain_seconds=1,
        **fields,
    )


def chat(number: int) -> Request:
    """A chat request, different for each number."""
    messages = [{"role": "user", "content": f"my card {number} has not arrived yet, refund, please!"}]
    return "chat/completions", {"messages": messages}


async def round_of(
    base: str, clients: int, requests: int, tokens: int, request: Callable[[int], Request] = chat
) -> Figures:
    """Send `requests` requests, `clients` at a time on as many connections. Raises for an error status."""
    latencies: list[float] = []
    answered = 0
    numbers = iter(range(requests))

    async def client(http: aiohttp.ClientSession) -> None:
        nonlocal answered
        for number in numbers:
            route, content = request(number)
            body = {"model": VERSION, "temperature": 0, "max_tokens": tokens} | content
            began = time.perf_counter()
            async with http.post(f"{base}/v1/{route}", json=body) as response:
                response.raise_for_status()
                answer = await response.json()
            latencies.append(1000 * (time.perf_counter() - began))
            answered += answer["usage"]["completion_tokens"]

    began = time.perf_counter()
    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    seconds = time.perf_counter() - began
    cuts = statistics.quantiles(latencies, n=100)
    return Figures(answered / seconds, cuts[49], cuts[98])


def main() -> None:
    """Print one line per server and number of clients."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=200, help="chats per round")
    parser.add_argument("--tokens", type=int, default=16, help="tokens per answer")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8], help="chats at a time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, servers(Path(name)) as addresses:
        for clients in arguments.clients:
            rounds: dict[str, list[Figures]] = {server: [] for server in addresses}
            for number in range(arguments.rounds + 1):
                for server, address in addresses.items():
                    figures = asyncio.run(round_of(address, clients, arguments.requests, arguments.tokens))
                    if number:  # the first round is a warm-up
                        rounds[server].append(figures)
            _print(clients, rounds)


def _print(clients: int, rounds: dict[str, list[Figures]]) -> None:
    medians = {server: _median(figures) for server, figures in rounds.items()}
    engine = medians["engine"]
    for server, figures in medians.items():
        print(
            f"{clients} at a time, {server}:"
            f" {figures.tokens:.0f} tokens/s ({figures.tokens / engine.tokens:.2f} of the engine),"
            f" latency p50 {figures.p50:.1f} ms ({figures.p50 - engine.p50:+.1f}),"
            f" p99 {figures.p99:.1f} ms ({figures.p99 - engine.p99:+.1f})"
        )


def _median(rounds: list[Figures]) -> Figures:
    return Figures(
        *(statistics.median(getattr(figures, field.name) for figures in rounds) for field in fields(Figures))
    )


if __name__ == "__main__":
    main()

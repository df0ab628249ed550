"""What eight steady clients notice of one hostile client.

    PYTHONPATH=tests python bench/hostile_requests.py [--rounds N] [--seconds S] [--only WORD ...]

An engine and its proxy serve a model of the demo's size with a context of 8,192 tokens on this machine's CPU. Each
steady client requests short greedy answers, one after another. The hostile client, a process with its own address,
repeats one input, each time as soon as it gets an answer. Rounds with and without it alternate. For each input, prints
the hostile client's answers by status, the failures of the steady clients (including answers that differ from those
without the hostile client), and the medians over the rounds of their 99th percentile of latency without it, with it,
and of the ratio. Each process needs a core of its own; on a busy machine the ratio reflects the machine's load.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import aiohttp
import torch
from serving import SIZES, serve_task
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from driftloop.podlib.storage import publish
from unit.server.conftest import CHAT_TEMPLATE, WORDS
from unit.server.mutants import mutant
from unit.server.processes import KEYS, answers, start, wait_for

CONTEXT = 8192
LONGEST = 64  # characters of the longest token in the vocabulary; in real ones it has up to 128
CLIENTS, TOKENS = 8, 24
STEADY, HOSTILE = "127.0.1.{}", "127.0.2.1"  # addresses, one per client
WARM_UP = 2.0  # seconds
REST = 0.5  # seconds after a round with the hostile client, so that its requests don't affect the next round

Hostile = Callable[["Client"], Awaitable[None]]


def tokenizer() -> PreTrainedTokenizerFast:
    """A small vocabulary that, like real ones, has tokens of one repeated character."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train_from_iterator([*WORDS, "a" * LONGEST] * 4, trainer)
    tokens = PreTrainedTokenizerFast(tokenizer_object=bpe, chat_template=CHAT_TEMPLATE)  # type: ignore[no-untyped-call]
    tokens.add_special_tokens({"eos_token": "<|end|>", "pad_token": "<|end|>"})
    return tokens


def save_model(folder: Path) -> None:
    torch.manual_seed(0)
    tokens = tokenizer()
    config = LlamaConfig(
        vocab_size=2048,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        initializer_range=0.2,  # with the default, the likeliest tokens are nearly ties
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
        bos_token_id=None,
        **SIZES,  # type: ignore[arg-type]
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokens.save_pretrained(folder)


@contextlib.contextmanager
def pod(folder: Path) -> Iterator[str]:
    """Start an engine and its proxy. Returns the proxy's base address."""
    save_model(folder / "model")
    os.environ["DRIFTLOOP_VOLUMES"] = str(folder / "volumes")
    digest = publish(folder / "model", "pvc://models/bench").digest
    task = serve_task("pvc://models/bench", digest, folder / "volumes" / "models" / "bench")
    with contextlib.ExitStack() as stack:
        for module in ("engine", "proxy"):
            stack.callback(start(module, task, folder / f"{module}.log", **KEYS).stop)
        wait_for(lambda: answers(f"http://127.0.0.1:{task.metrics_port}/readyz"), 120)
        yield f"http://127.0.0.1:{task.api_port}/v1"


def encoded(body: dict[str, Any]) -> bytes:
    return json.dumps({"model": "bench"} | body).encode()


class Client:
    """Sends requests from its own address, and counts the answers by status."""

    def __init__(self, base: str, address: str) -> None:
        self._base = base
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, local_addr=(address, 0)), timeout=aiohttp.ClientTimeout(total=120)
        )
        self.statuses: Counter[str] = Counter()

    async def post(self, route: str, data: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        try:
            async with self._http.post(f"{self._base}/{route}", data=data, headers=headers) as response:
                status, answer = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            status, answer = 0, type(error).__name__.encode()
        self.statuses[str(status or answer.decode())] += 1
        return status, answer

    async def raw(self, data: bytes) -> None:
        """Send bytes on a connection of its own, and wait for the end of the answer for a second at most."""
        port = int(self._base.rsplit(":", 1)[1].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(HOSTILE, 0))
        try:
            writer.write(data)
            head = (await asyncio.wait_for(reader.read(-1), 1)).split(b" ", 2)
            self.statuses[head[1].decode() if len(head) > 1 else "none"] += 1
        except (ConnectionError, TimeoutError):
            self.statuses["left"] += 1
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        await self._http.close()


def repeated(route: str, body: dict[str, Any], at_once: int = 1, leave_after: float | None = None) -> Hostile:
    """Sends `at_once` equal requests at a time. With `leave_after` it disconnects after so many seconds."""
    data = encoded(body)

    async def one(client: Client) -> None:
        try:
            await asyncio.wait_for(client.post(route, data), leave_after)
        except TimeoutError:
            client.statuses["left"] += 1

    async def send(client: Client) -> None:
        await asyncio.gather(*(one(client) for _ in range(at_once)))

    return send


def completion(**body: Any) -> Hostile:
    return repeated("completions", {"max_tokens": 16} | body)


def mutated(at_once: int) -> Hostile:
    """Sends the mutants of the fuzz (tests/unit/server/mutants.py), `at_once` at a time."""
    seeds = itertools.count()

    async def send(client: Client) -> None:
        await asyncio.gather(*(client.raw(mutant(next(seeds)).data) for _ in range(at_once)))

    return send


def question(number: int) -> tuple[str, dict[str, Any]]:
    text = f"my card {number} has not arrived yet, refund, please!"
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": TOKENS}
    return "chat/completions", body | {"ignore_eos": True}


INPUTS: dict[str, Hostile] = {
    "top_k of 10^400": completion(prompt="a", top_k=10**400),
    "3.9 MB of one letter": completion(prompt="a" * 3_900_000),
    "1 MB of one letter": completion(prompt="a" * 1_000_000),
    "0.5 MB of one letter, which fits": completion(prompt="a" * (LONGEST * (CONTEXT - 100))),
    "50,000 messages": repeated("chat/completions", {"messages": [{"role": "user", "content": "a"}] * 50_000}),
    "5 MB of one letter": completion(prompt="a" * 5_000_000),
    "a million lists and an emoji": completion(prompt="\U0001f642", metadata=[[]] * 1_000_000),
    "1.5 MB of lists and an emoji, which fit": completion(prompt="\U0001f642", metadata=[[]] * 380_000),
    "clients that leave while tokenised": repeated("completions", {"prompt": "a" * 500_000}, 4, 0.2),
    "clients that leave while read": repeated("completions", {"prompt": [5] * 8000, "max_tokens": 9}, 4, 0.2),
    "clients that leave while answered": repeated("completions", {"prompt": "a", "max_tokens": 4000}, 4, 0.2),
    "a prompt as long as the context": completion(prompt=[5] * (CONTEXT - 16)),
    "lone surrogates": completion(prompt="cut \ud83d off"),
    "mutants of the fuzz": mutated(at_once=8),
    "a burst of 64 requests": repeated(*question(0), at_once=64),
}


@dataclass
class Round:
    """Results of the steady clients: latencies in seconds, and the number of failed or wrong answers."""

    latencies: list[float] = field(default_factory=list)
    failures: int = 0

    @property
    def p99(self) -> float:
        return statistics.quantiles(self.latencies, n=100)[98]


def text_of(answer: bytes) -> str:
    return str(json.loads(answer)["choices"][0]["message"]["content"])


async def steady(clients: list[Client], expected: list[str], seconds: float) -> Round:
    result, end = Round(), time.monotonic() + seconds

    async def one(client: Client, number: int) -> None:
        route, body = question(number)[0], encoded(question(number)[1])
        while time.monotonic() < end:
            began = time.monotonic()
            status, answer = await client.post(route, body)
            result.latencies.append(time.monotonic() - began)
            result.failures += status != 200 or text_of(answer) != expected[number]

    await asyncio.gather(*(one(client, number) for number, client in enumerate(clients)))
    return result


class Harm:
    """A process that sends hostile requests on command, so that it doesn't delay the steady clients' process."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_harm, args=(theirs,), daemon=True).start()

    def begin(self, base: str, name: str) -> None:
        self._pipe.send((base, name))

    def end(self) -> str:
        """Stop sending. Returns the number of answers by status."""
        self._pipe.send(None)
        return str(self._pipe.recv())


def _harm(pipe: Connection) -> None:
    while True:
        pipe.send(asyncio.run(_send_until_told(pipe, *pipe.recv())))


async def _send_until_told(pipe: Connection, base: str, name: str) -> str:
    client, stop = Client(base, HOSTILE), asyncio.Event()
    asyncio.get_running_loop().add_reader(pipe.fileno(), stop.set)

    async def repeat() -> None:
        while True:
            await INPUTS[name](client)

    task = asyncio.create_task(repeat())
    await stop.wait()
    asyncio.get_running_loop().remove_reader(pipe.fileno())
    pipe.recv()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await client.close()
    return ", ".join(f"{count}x {status}" for status, count in client.statuses.most_common()) or "none yet"


async def measure(harm: Harm, base: str, names: list[str], rounds: int, seconds: float) -> None:
    clients = [Client(base, STEADY.format(number + 1)) for number in range(CLIENTS)]
    expected = []
    for number, client in enumerate(clients):
        route, body = question(number)
        expected.append(text_of((await client.post(route, encoded(body)))[1]))
    await steady(clients, expected, WARM_UP)
    print(
        "| input | its answers | steady failures | p99 without, ms | p99 with, ms | ratio |\n|---|---|---|---|---|---|"
    )
    for name in names:
        without, with_it, statuses = [], [], ""
        for _ in range(rounds):
            without.append(await steady(clients, expected, seconds))
            harm.begin(base, name)
            with_it.append(await steady(clients, expected, seconds))
            statuses = harm.end()
            await asyncio.sleep(REST)
        ratio = statistics.median(w.p99 / wo.p99 for w, wo in zip(with_it, without, strict=True))
        alone, together = (1000 * statistics.median(r.p99 for r in results) for results in (without, with_it))
        failures = sum(result.failures for result in with_it)
        requests = sum(len(result.latencies) for result in with_it)
        print(
            f"| {name} | {statuses} | {failures} of {requests} | {alone:.0f} | {together:.0f} | {ratio:.2f} |",
            flush=True,
        )
    for client in clients:
        await client.close()


def main() -> None:
    """Print one line per hostile input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="seconds per round")
    parser.add_argument("--only", nargs="+", default=[""], help="only inputs that contain one of these words")
    arguments = parser.parse_args()
    names = [name for name in INPUTS if any(word in name for word in arguments.only)]
    harm = Harm()  # forked, so before any thread is started
    with tempfile.TemporaryDirectory() as folder, pod(Path(folder)) as base:
        asyncio.run(measure(harm, base, names, arguments.rounds, arguments.seconds))


if __name__ == "__main__":
    main()

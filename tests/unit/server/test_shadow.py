"""Two pods of a service, each with its engine: the second one answers copies of the first one's requests."""

import json
from pathlib import Path
from typing import Any

import aiohttp

from driftloop.cli.gating.ports import free_ports
from driftloop.contract.names import SHADOW_PATH
from driftloop.contract.task import ServeTask
from unit.server.processes import Process, Start, answers, wait_for

SECRET = "my card number is unmistakable"


def chat(content: str = SECRET, **more: Any) -> dict[str, Any]:
    return {
        "model": "desk",
        "messages": [{"role": "user", "content": content}],
        "temperature": 0,
        "max_tokens": 20,
    } | more


async def ask(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[int, str]:
    async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.text()


async def test_copies_are_answered_in_silence_and_compared(
    pods: Start, launch: Start, serve_task: ServeTask, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    second = launch("engine", serve_task.model_copy(update={"engine_port": port}))
    wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"))
    keys = tmp_path / "keys"
    keys.mkdir()
    (keys / "team-a").write_text(json.dumps({"sha256": ["0" * 64]}))  # nobody has its key
    candidate: Process = pods(
        engine_port=port,
        revision="r2",
        version="desk-11111111",
        shadow_percent=100.0,
        api_keys_secret="keys",
        environment={"DRIFTLOOP_API_KEYS": str(keys)},
    )
    stable: Process = pods(shadow_url=candidate.url)

    def pairs(measure: str, outcome: str) -> float:
        return stable.metric("driftloop_shadow_pairs_total", candidate="r2", measure=measure, outcome=outcome)

    wait_for(lambda: any("driftloop_shadow_pairs_total" in series for series in stable.metrics()), 60)
    async with aiohttp.ClientSession() as session:
        for stream in (False, True):
            assert (await ask(session, stable.url, chat(stream=stream, ignore_eos=True)))[0] == 200
        wait_for(lambda: pairs("answer", "equal") == 2, 60)
        assert pairs("failed", "neither") == 2
        assert pairs("length", "neither") == 2
        assert (await ask(session, stable.url, chat(max_tokens=3000)))[0] == 400  # refused requests are not copied
        # The copies are no requests of users: no counter, no drift, no memory, and only they pass without a key.
        answered = {"route": "/v1/chat/completions", "code": "200"}
        assert candidate.metric("driftloop_requests_total", **answered) == 0
        assert stable.metric("driftloop_requests_total", **answered) == 2
        counted = [value for series, value in candidate.metrics().items() if series.startswith("driftloop_drift_bin")]
        assert sum(counted) == 0
        assert (await ask(session, candidate.url, chat()))[0] == 401
        async with session.get(candidate.url + SHADOW_PATH) as told:
            assert told.status == 401
        second.stop()
        assert (await ask(session, stable.url, chat()))[0] == 200
        wait_for(lambda: pairs("failed", "candidate") == 1, 60)
        assert pairs("failed", "neither") == 2
    for process in (stable, candidate, second):
        assert SECRET not in process.output.read_text()

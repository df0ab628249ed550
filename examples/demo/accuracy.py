"""Accuracy for the final table. The rows are asked from outside the cluster; no pod has seen them or their answers."""

import asyncio
import contextlib
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence

import aiohttp

from demo.corpus import Row
from demo.kube import Kube
from demo.reads import Obj

CONCURRENCY = 8


def pinned_service(namespace: str, name: str, family: str, version: str, **spec: Obj) -> Obj:
    """A service that serves one version without drift detection. `spec` has additional fields."""
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"family": family, "version": version},
            "drift": {"enabled": False},
            "drainSeconds": 1,
            "engine": {"resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}},
            **spec,
        },
    }


def measure(kube: Kube, namespace: str, service: str, rows: Sequence[Row]) -> float:
    """Share of `rows` that the service answers with exactly the row's category."""
    with forwarded(kube, namespace, service) as url:
        return asyncio.run(_ask_all(url, service, rows))


@contextlib.contextmanager
def forwarded(kube: Kube, namespace: str, service: str) -> Iterator[str]:
    """A local URL of the service, by `kubectl port-forward` on a free port."""
    command = [*kube.command, "port-forward", "-n", namespace, f"service/{service}", ":80", "--address=127.0.0.1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            port = re.search(r"127\.0\.0\.1:(\d+)", line)
            if not port:
                raise RuntimeError(f"kubectl port-forward: {line.strip()}")
            # kubectl prints one line per connection. Unread lines would fill the pipe and block kubectl.
            threading.Thread(target=process.stdout.read, daemon=True).start()
            yield f"http://127.0.0.1:{port[1]}"
        finally:
            process.terminate()


async def _ask_all(url: str, model: str, rows: Sequence[Row]) -> float:
    gate = asyncio.Semaphore(CONCURRENCY)
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session:

        async def right(row: Row) -> bool:
            body = {
                "model": model,
                "messages": [{"role": "user", "content": row.text}],
                "temperature": 0,
                "max_tokens": 48,
            }
            async with gate, session.post(f"{url}/v1/chat/completions", json=body) as response:
                response.raise_for_status()
                document = await response.json()
                return bool((document["choices"][0]["message"]["content"] or "").strip() == row.category)

        answers = await asyncio.gather(*(right(row) for row in rows))
    return sum(answers) / len(answers)

"""A service that sleeps without requests loses none: twenty while it sleeps, and single ones as it falls asleep."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from cluster.lab import Lab
from cluster.test_serving_faults import service as served
from demo.kube import restricted_pod
from demo.reads import Obj
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800), pytest.mark.long("faults")]

NAME, CLIENT = "sleeper", "sleeper-client"
IDLE = 15
# Sends one request after each pause, in one session with connections that are kept, then prints the results.
SCRIPT = """
import asyncio, json, sys
import aiohttp

async def ask(http, url):
    body = {"prompt": "my card has not arrived", "max_tokens": 4, "stream": True}
    try:
        async with http.post(f"{url}/v1/completions", json=body) as answer:
            text = await answer.text()
            return str(answer.status) if "[DONE]" in text or answer.status != 200 else "cut off"
    except (aiohttp.ClientError, TimeoutError) as error:
        return repr(error)

async def main(url, pauses):
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = []
        for pause in pauses:
            await asyncio.sleep(pause)
            tasks.append(asyncio.create_task(ask(http, url)))
            if pause:
                await tasks[-1]
        print(json.dumps(await asyncio.gather(*tasks)))

asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
"""


def phase(lab: Lab) -> str:
    return str(lab.get("inferenceservice", NAME).get("status", {}).get("phase"))


def pods(lab: Lab) -> list[Obj]:
    """The serving pods, also those that stop."""
    return lab.list("pods", f"driftloop.dev/service={NAME},driftloop.dev/stage=serve")


def send(lab: Lab, pauses: Sequence[float]) -> Counter[str]:
    """Send a request after each pause, and count the results."""
    url = f"http://{NAME}.{lab.namespace}.svc"
    command = ("python", "-c", SCRIPT, url, json.dumps(pauses))
    output = lab.kube.run("exec", "-n", lab.namespace, CLIENT, "--", *command, timeout=1200)
    return Counter(json.loads(output.strip().splitlines()[-1]))


def falls_asleep(lab: Lab) -> None:
    wait.until(lambda: phase(lab) == "Asleep" and not pods(lab), "the service to sleep", 240)


@pytest.fixture(scope="module")
def asleep(lab: Lab, trained: str) -> Iterator[None]:
    """The service, which has served and sleeps, and the pod of its client."""
    lab.judged(lab.phase(trained, "Succeeded")["status"]["version"])
    spec = {"replicas": 1, "scaleToZero": {"idleSeconds": IDLE, "holdSeconds": 400}}
    lab.apply(served(**spec) | {"metadata": {"name": NAME}})
    lab.kube.apply(restricted_pod(CLIENT, lab.namespace, lab.installed.images["operator"], ["sleep", "infinity"]))
    lab.kube.run("wait", "-n", lab.namespace, f"pod/{CLIENT}", "--for=condition=Ready", "--timeout=120s", timeout=130)
    wait.until(lambda: phase(lab) == "Serving", "the service to serve", 300)
    falls_asleep(lab)
    yield
    lab.kube.run("delete", "inferenceservice", NAME, "-n", lab.namespace)
    lab.kube.run("delete", "pod", CLIENT, "-n", lab.namespace, "--wait=false")


def test_twenty_requests_at_once_are_held_and_answered_in_three_cycles(lab: Lab, asleep: None) -> None:
    for _ in range(3):
        falls_asleep(lab)
        assert send(lab, [0] * 20) == {"200": 20}
        wait.until(lambda: phase(lab) == "Serving", "the service to serve", 60)
        assert len(pods(lab)) == 1


def test_single_requests_around_the_moment_at_which_it_falls_asleep_are_all_answered(lab: Lab, asleep: None) -> None:
    """The pauses lead through each step: the pods idle, all requests at the door, the pods stop, and are gone."""
    pauses = [IDLE + beyond for beyond in (-2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)]
    assert send(lab, pauses) == {"200": len(pauses)}


def test_a_door_that_moves_while_the_service_sleeps_loses_no_request(lab: Lab, asleep: None) -> None:
    falls_asleep(lab)
    (door,) = lab.list("pods", f"driftloop.dev/service={NAME},driftloop.dev/stage=door")
    lab.kube.run("delete", "pod", door["metadata"]["name"], "-n", lab.namespace, "--wait=false")
    assert send(lab, [0] * 5) == {"200": 5}

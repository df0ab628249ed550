"""The evaluation's client against the pod that serves: both sides of the API contract are ours."""

import aiohttp

from driftloop.contract.task import EvaluationArm
from driftloop_trainer.evaluate.checks import CHECKS, check_api
from driftloop_trainer.evaluate.client import Arm
from unit.server.processes import Process


async def test_the_served_pod_keeps_every_promise_that_the_evaluation_checks(proxy: Process) -> None:
    ready = f"http://127.0.0.1:{proxy.ports['metrics']}/readyz"
    told = EvaluationArm(version="v1", digest="sha256:" + "a" * 64, url=proxy.url, ready_url=ready)
    async with aiohttp.ClientSession() as session:
        arm = Arm(told, session, concurrency=4)
        await arm.wait_ready(30)
        await arm.get_to_know()
        found = await check_api(arm, ["my card has not arrived yet", "refund, please!"], max_tokens=12)
    assert arm.route == "chat"
    assert found.failed == []
    assert found.passed == len(CHECKS)

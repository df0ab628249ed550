"""A container's low soft limit of open files bounds no number of connections."""

import resource

from driftloop.cli.gating.ports import free_ports
from driftloop.contract.task import ServeTask
from unit.server.processes import KEYS, Start, answers, wait_for

LOW = 256


def test_the_proxy_takes_the_hard_limit(launch: Start, serve_task: ServeTask) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    api, feedback, metrics = free_ports(3)
    ports = {"api_port": api, "feedback_port": feedback, "metrics_port": metrics, "engine_port": 1}
    resource.setrlimit(resource.RLIMIT_NOFILE, (LOW, hard))  # the process inherits it
    try:
        process = launch("proxy", serve_task.model_copy(update=ports), **KEYS)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: answers(f"http://127.0.0.1:{metrics}/healthz"))
    assert resource.prlimit(process.popen.pid, resource.RLIMIT_NOFILE) == (hard, hard)

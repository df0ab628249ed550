"""What the operator's process spends on a watch event and on a reconcile, and would without two of its settings.

    PYTHONPATH=operator:tests:examples python bench/operator_costs.py [--rounds N] [--objects N] [--passes N]

An operator with deciders of a few lines runs against a real kube-apiserver, as it is and in two variants:

- diffs: kopf keeps what it compares objects with, as it does by default, though no handler asks for a difference.
- environment: the client's session trusts the environment, as it does by default: it looks for proxies and netrc.

Event: somebody annotates a Job that concerns nobody, of about 3 kB; it is taken into the caches, and that is all.
Reconcile: somebody changes an InferenceService, and its status is written: two events and one request.

The variants take turns, a round each. Printed are the medians over the rounds of the process's CPU time, less what it
spends when nothing happens, and beside them the median of each round's ratio to the operator as it is.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kopf

from control_plane import simple
from control_plane.harness import ROOT, Cluster, OperatorProcess, eventually
from control_plane.objects import inferenceservice
from demo.reads import Reads
from driftloop.controller.process import operator
from driftloop.controller.runtime.kube.api import Api, credentials
from driftloop.controller.runtime.kube.resources import RESOURCES
from driftloop.controller.runtime.loop import watch
from driftloop.controller.vocabulary.labels import MANAGED_BY
from driftloop.controller.vocabulary.plan import Obj
from testcluster.controlplane import ControlPlane

AS_IT_IS, DIFFS, ENVIRONMENT = "as it is", "diffs", "environment"
VARIANTS = (AS_IT_IS, DIFFS, ENVIRONMENT)
SETTLED = 14.0  # seconds after which a new leader has done its first resync
QUIET = 3.0  # seconds over which the CPU of an idle operator is taken
TICK = os.sysconf("SC_CLK_TCK")
WRITTEN = 'driftloop_reconcile_total{kind="InferenceService",result="written"}'
FLAGS = (
    *("--qps=2000", "--burst=2000", "--resync-seconds=3600", "--log-level=warning"),
    *("--lease-seconds=600", "--renew-deadline-seconds=300"),  # a busy machine must not end it
)


@dataclass(frozen=True)
class Costs:
    """Milliseconds of CPU."""

    event: float
    reconcile: float


def main() -> None:
    """Measure, and print as it goes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objects", type=int, default=200, help="Jobs, and as many InferenceServices")
    parser.add_argument("--passes", type=int, default=8, help="changes of each of them; an even number")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "plane") as plane:
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        cluster = Cluster(plane, "default", Reads(plane.kubeconfig))
        cluster.create(*(job(number) for number in range(given.objects)))
        cluster.create(*(inferenceservice(f"s{number}") for number in range(given.objects)))
        rounds = [
            {variant: measured(cluster, Path(folder), variant, given.objects, given.passes) for variant in VARIANTS}
            for _ in range(given.rounds)
        ]
    show(rounds)


def show(rounds: list[dict[str, Costs]]) -> None:
    """A line per variant."""
    for variant in VARIANTS:
        columns = []
        for what in ("event", "reconcile"):
            costs = [getattr(each[variant], what) for each in rounds]
            ratios = [getattr(each[variant], what) / getattr(each[AS_IT_IS], what) for each in rounds]
            columns.append(f"{what} {statistics.median(costs):6.2f} ms ({statistics.median(ratios):.2f})")
        print(f"{variant:12} {'   '.join(columns)}", flush=True)


def measured(cluster: Cluster, folder: Path, variant: str, objects: int, passes: int) -> Costs:
    """One round of one variant, with an operator of its own."""
    process = OperatorProcess(cluster, folder, "bench", Path(__file__), *FLAGS)
    paths = os.pathsep.join(f"{ROOT}/{each}" for each in ("operator", "tests", "examples"))
    process.start(VARIANT=variant, PYTHONPATH=paths).ready()
    try:
        eventually(lambda: process.metric("driftloop_leader ") == 1)
        time.sleep(SETTLED)
        idle = _idle(process)
        event, _ = _spent(process, idle, lambda: asyncio.run(annotate(cluster, objects, passes)))
        spent, written = _spent(process, idle, lambda: asyncio.run(scale(cluster, objects, passes)))
        costs = Costs(1e3 * event / (objects * passes), 1e3 * spent / written)
        print(f"{variant:12} event {costs.event:6.2f} ms   reconcile {costs.reconcile:6.2f} ms", file=sys.stderr)
        return costs
    finally:
        process.stop()


def _idle(process: OperatorProcess) -> float:
    """Seconds of CPU per second in which nothing happens."""
    before = _cpu(process)
    time.sleep(QUIET)
    return (_cpu(process) - before) / QUIET


def _spent(process: OperatorProcess, idle: float, change: Callable[[], None]) -> tuple[float, float]:
    """Seconds of CPU that the changes cost, and the reconciles that wrote a status."""
    started, cpu, written = time.monotonic(), _cpu(process), process.metric(WRITTEN)
    change()
    for _ in range(20):  # until it is done with them
        if _idle(process) <= idle + 0.02:
            break
    spent = _cpu(process) - cpu - idle * (time.monotonic() - started)
    return spent, process.metric(WRITTEN) - written


def _cpu(process: OperatorProcess) -> float:
    """Seconds of CPU that the process has used."""
    assert process.process is not None
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK  # utime and stime


async def annotate(cluster: Cluster, objects: int, passes: int) -> None:
    """Change every Job, `passes` times."""

    def change(number: int) -> tuple[str, Obj]:
        return f"j{number % objects}", {"metadata": {"annotations": {"changed": f"{time.time_ns()}"}}}

    await _patch(cluster, "Job", change, objects * passes)


async def scale(cluster: Cluster, objects: int, passes: int) -> None:
    """Change every InferenceService, `passes` times: to 2 replicas, to 1, and so on."""

    def change(number: int) -> tuple[str, Obj]:
        return f"s{number % objects}", {"spec": {"replicas": 2 - number // objects % 2}}

    await _patch(cluster, "InferenceService", change, objects * passes)


async def _patch(cluster: Cluster, kind: str, change: Callable[[int], tuple[str, Obj]], count: int) -> None:
    """Ten at a time, so that the operator keeps up with them."""
    api = Api(await credentials(str(cluster.plane.kubeconfig)))

    async def some(first: int) -> None:
        for number in range(first, count, 10):
            name, patch = change(number)
            await api.merge(RESOURCES[kind], cluster.namespace, name, patch)

    work: list[Awaitable[None]] = [some(first) for first in range(10)]
    try:
        await asyncio.gather(*work)
    finally:
        await api.close()


def job(number: int) -> Obj:
    """A Job with our label, of about the size of a stage's; nobody owns it and no controller looks at it."""
    container = {
        "image": "registry.example/driftloop-trainer:1",
        "env": [{"name": f"VARIABLE_{each}", "value": "x" * 40} for each in range(12)],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "containers": [container | {"name": "driver"}, container | {"name": "worker"}],
        "volumes": [{"name": f"v{each}", "emptyDir": {}} for each in range(6)],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"j{number}", "labels": dict([MANAGED_BY])},
        "spec": {"template": {"metadata": {"labels": dict([MANAGED_BY])}, "spec": pod}},
    }


def _run_operator(variant: str) -> None:
    """In the operator's process: the operator of simple.py, with one default of a library's put back."""
    if variant == DIFFS:
        _keep_diffs()
    if variant == ENVIRONMENT:
        _trust_environment()
    simple.main()


def _keep_diffs() -> None:
    settings = watch.kopf_settings

    def as_by_default() -> kopf.OperatorSettings:
        found = settings()
        found.persistence.diffbase_storage = kopf.OperatorSettings().persistence.diffbase_storage
        return found

    operator.kopf_settings = as_by_default  # type: ignore[attr-defined]  # where it is called


def _trust_environment() -> None:
    init = Api.__init__

    def as_by_default(self: Api, configuration: Any, *rest: Any, **more: Any) -> None:
        init(self, configuration, *rest, **more)
        self._client.configuration.client_session_kwargs = None  # the session is made with the first request

    Api.__init__ = as_by_default  # type: ignore[method-assign]


if __name__ == "__main__":
    if chosen := os.environ.get("VARIANT"):
        _run_operator(chosen)
    else:
        main()

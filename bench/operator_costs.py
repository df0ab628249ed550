"""The CPU time of the operator per watch event and per reconcile, as it is and without two of its settings.

    PYTHONPATH=operator:tests:examples python bench/operator_costs.py [--rounds N] [--objects N] [--passes N]

An operator with deciders of a few lines runs against a real kube-apiserver, as it is and in two variants:

- diffs: kopf stores data for computing differences of objects, its default, although no handler uses them.
- environment: the client's session reads proxies and netrc from the environment, its default.

Event: a Job of about 3 kB that concerns no custom resource is annotated; the operator only updates its caches.
Reconcile: an InferenceService is changed and the operator writes its status: two events and one request.

The variants run in turn, one round each. Prints the medians over the rounds of the process's CPU time, without the time
that it uses when idle, and the median of each round's ratio to the operator as it is.
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
SETTLED = 14.0  # seconds after which a new leader has finished its first resync
QUIET = 3.0  # seconds for measuring the CPU time of an idle operator
TICK = os.sysconf("SC_CLK_TCK")
WRITTEN = 'driftloop_reconcile_total{kind="InferenceService",result="written"}'
FLAGS = (
    *("--qps=2000", "--burst=2000", "--resync-seconds=3600", "--log-level=warning"),
    *("--lease-seconds=600", "--renew-deadline-seconds=300"),  # so that it keeps the Lease on a busy machine
)


@dataclass(frozen=True)
class Costs:
    """CPU time in milliseconds."""

    event: float
    reconcile: float


def main() -> None:
    """Measure all variants and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--objects", type=int, default=200, help="number of Jobs and of InferenceServices")
    parser.add_argument("--passes", type=int, default=8, help="changes per object; an even number")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder) / "plane") as plane:
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        cluster = Cluster(plane, "default", Reads(plane.kubeconfig))
        cluster.create(*(job(number) for number in range(options.objects)))
        cluster.create(*(inferenceservice(f"s{number}") for number in range(options.objects)))
        rounds = [
            {variant: measured(cluster, Path(folder), variant, options.objects, options.passes) for variant in VARIANTS}
            for _ in range(options.rounds)
        ]
    show(rounds)


def show(rounds: list[dict[str, Costs]]) -> None:
    """Print one line per variant."""
    for variant in VARIANTS:
        columns = []
        for what in ("event", "reconcile"):
            costs = [getattr(results[variant], what) for results in rounds]
            ratios = [getattr(results[variant], what) / getattr(results[AS_IT_IS], what) for results in rounds]
            columns.append(f"{what} {statistics.median(costs):6.2f} ms ({statistics.median(ratios):.2f})")
        print(f"{variant:12} {'   '.join(columns)}", flush=True)


def measured(cluster: Cluster, folder: Path, variant: str, objects: int, passes: int) -> Costs:
    """Measure one round of one variant with a new operator."""
    process = OperatorProcess(cluster, folder, "bench", Path(__file__), *FLAGS)
    paths = os.pathsep.join(f"{ROOT}/{name}" for name in ("operator", "tests", "examples"))
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
    """CPU seconds per second when idle."""
    before = _cpu(process)
    time.sleep(QUIET)
    return (_cpu(process) - before) / QUIET


def _spent(process: OperatorProcess, idle: float, change: Callable[[], None]) -> tuple[float, float]:
    """CPU seconds for the changes, and the number of reconciles that wrote a status."""
    started, cpu, written = time.monotonic(), _cpu(process), process.metric(WRITTEN)
    change()
    for _ in range(20):  # until the operator is idle again
        if _idle(process) <= idle + 0.02:
            break
    spent = _cpu(process) - cpu - idle * (time.monotonic() - started)
    return spent, process.metric(WRITTEN) - written


def _cpu(process: OperatorProcess) -> float:
    """CPU seconds that the process has used."""
    assert process.process is not None
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK  # utime and stime


async def annotate(cluster: Cluster, objects: int, passes: int) -> None:
    """Change each Job `passes` times."""

    def change(number: int) -> tuple[str, Obj]:
        return f"j{number % objects}", {"metadata": {"annotations": {"changed": f"{time.time_ns()}"}}}

    await _patch(cluster, "Job", change, objects * passes)


async def scale(cluster: Cluster, objects: int, passes: int) -> None:
    """Change each InferenceService `passes` times: to 2 replicas, to 1, and so on."""

    def change(number: int) -> tuple[str, Obj]:
        return f"s{number % objects}", {"spec": {"replicas": 2 - number // objects % 2}}

    await _patch(cluster, "InferenceService", change, objects * passes)


async def _patch(cluster: Cluster, kind: str, change: Callable[[int], tuple[str, Obj]], count: int) -> None:
    """Send `count` patches, ten at a time, so that the operator can keep up."""
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
    """A Job with our label and about the size of a stage's Job, but without an owner or a controller."""
    container = {
        "image": "registry.example/driftloop-trainer:1",
        "env": [{"name": f"VARIABLE_{index}", "value": "x" * 40} for index in range(12)],
        "resources": {"limits": {"cpu": "1", "memory": "1Gi"}},
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "containers": [container | {"name": "driver"}, container | {"name": "worker"}],
        "volumes": [{"name": f"v{index}", "emptyDir": {}} for index in range(6)],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": f"j{number}", "labels": dict([MANAGED_BY])},
        "spec": {"template": {"metadata": {"labels": dict([MANAGED_BY])}, "spec": pod}},
    }


def _run_operator(variant: str) -> None:
    """Run the operator of simple.py, with one library's default restored. Called in the operator's process."""
    if variant == DIFFS:
        _keep_diffs()
    if variant == ENVIRONMENT:
        _trust_environment()
    simple.main()


def _keep_diffs() -> None:
    settings = watch.kopf_settings

    def as_by_default() -> kopf.OperatorSettings:
        changed = settings()
        changed.persistence.diffbase_storage = kopf.OperatorSettings().persistence.diffbase_storage
        return changed

    operator.kopf_settings = as_by_default  # type: ignore[attr-defined]  # the module that calls it


def _trust_environment() -> None:
    init = Api.__init__

    def as_by_default(self: Api, configuration: Any, *rest: Any, **more: Any) -> None:
        init(self, configuration, *rest, **more)
        self._client.configuration.client_session_kwargs = None  # the session is created with the first request

    Api.__init__ = as_by_default  # type: ignore[method-assign]


if __name__ == "__main__":
    if chosen := os.environ.get("VARIANT"):
        _run_operator(chosen)
    else:
        main()

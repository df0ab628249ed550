"""Runs the whole loop on a real cluster, without manual steps, and writes a report."""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from demo import controls, install, manifests, report
from demo.loop import SERVICE, Loop, Pace, run
from demo.pools import Pools, account, from_folder, generated
from demo.timeline import Timeline, clock
from demo.traffic import Traffic
from testcluster.console import Error

NAMESPACE = "support-desk"
# The tests use this pace; `make demo` uses the full one.
SHORT = Pace(steady_requests=500, after_requests=300, report_rows=150, rate=30, training_rate=3, rollout_rate=30)


def main() -> int:
    options = _parser().parse_args()
    timeline = Timeline()
    try:
        pools = from_folder(options.data, options.shift) if options.data else generated(160 if options.short else 200)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        document = demo(timeline, pools, SHORT if options.short else Pace(), options)
    except Error as error:  # of the set-up: it names what to do
        print(f"error: {error}", file=sys.stderr)
        return 1
    report.write(document, options.report)
    print(report.table(document))
    print(f"\n{options.report} written after {clock(time.monotonic() - timeline.started)}")
    return 0


def demo(timeline: Timeline, pools: Pools, pace: Pace, options: argparse.Namespace) -> dict[str, Any]:
    """Run the demo once. Returns the report."""
    installed = install.install(timeline, options.cluster, options.engine)
    kube, namespace = installed.kube, options.namespace
    install.namespace_with_claim(installed, namespace)
    install.put_data(installed, namespace, pools)
    timeline.event(f"storage and data ready: {len(pools.training)} rows to train on")
    folder = "examples/demo/short" if options.short else "examples/support-desk"
    rendered = kube.run("kustomize", str(install.ROOT / folder))
    if options.parallelism:
        rendered = manifests.divided(rendered, options.parallelism)
    if options.engine == "vllm":
        rendered = manifests.on_vllm(rendered)
    kube.run("apply", "-n", namespace, "-f", "-", stdin=rendered)
    timeline.event(f"{folder} applied")
    loop = Loop(kube, namespace, timeline, pools, pace)

    def traffic() -> Traffic:
        rows = {"old": pools.traffic, "shifted": pools.shifted_traffic}
        return Traffic(kube, namespace, installed.images["operator"], SERVICE, rows)

    def promoted() -> None:  # starts slow parts while the traffic continues
        loop.serve_both()
        if options.controls:
            controls.begin(loop, installed)

    run(loop, traffic, promoted)
    if options.controls:
        controls.mislead(loop, installed)  # both controls train while the accuracy is measured
    loop.measure()
    if options.controls:
        controls.finish(loop)
    keys = _keys(installed, loop)
    return report.build(kube, namespace, loop.results, account(pools, *keys), _cluster(installed), timeline)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder with train.csv and test.csv (columns text and category)")
    parser.add_argument(
        "--shift", type=Path, help="folder with the rows of the shift (default: the last third of --data's categories)"
    )
    parser.add_argument(
        "--parallelism",
        type=manifests.parallelism,
        help="how the workers of every training divide the model, such as pipeline=2 (see compute.parallelism)",
    )
    parser.add_argument(
        "--engine",
        choices=install.ENGINES,
        default=install.BUILT_IN,
        help="the engine that serves and by which versions are judged; vllm is built for CPUs, which takes minutes and "
        "gigabytes the first time",
    )
    parser.add_argument("--controls", action="store_true", help="add two candidates that the gates must refuse")
    parser.add_argument("--short", action="store_true", help="run the shorter form that the tests use")
    parser.add_argument("--namespace", default=NAMESPACE, help="namespace of the run; it is emptied first")
    parser.add_argument("--cluster", default=os.environ.get("CLUSTER", "auto"), help="auto, current, kind or local")
    parser.add_argument(
        "--report", type=Path, default=install.ROOT / "build/demo/report.json", help="path of the report"
    )
    return parser


def _keys(installed: install.Installed, loop: Loop) -> tuple[set[str], set[str]]:
    """Keys of rows that any version was trained on, and of rows that any gate asked, as recorded by prepare."""
    trained: set[str] = set()
    asked_by_gates: set[str] = set()
    for job in loop.kube.list("finetunejobs", loop.namespace):
        if "data" not in job.get("status", {}):
            continue
        folder = job["status"]["data"]["uri"].removeprefix(f"pvc://{install.CLAIM}/")
        trained |= set(install.read_file(installed, loop.namespace, f"{folder}/train_keys.txt").split())
        asked_by_gates |= set(install.read_file(installed, loop.namespace, f"{folder}/heldout_keys.txt").split())
    return trained, asked_by_gates


def _cluster(installed: install.Installed) -> dict[str, object]:
    version = json.loads(installed.kube.run("version", "-o", "json"))
    nodes = installed.kube.list("nodes", "")
    info = nodes[0]["status"]["nodeInfo"]
    return {
        "nodes": [node["metadata"]["name"] for node in nodes],
        "versions": {
            "kubernetes": version["serverVersion"]["gitVersion"],
            "containerRuntime": info["containerRuntimeVersion"],
            "kernel": info["kernelVersion"],
        },
        "images": installed.images,
    }


if __name__ == "__main__":
    sys.exit(main())

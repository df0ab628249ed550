"""The demo's report: build/demo/report.json, a table, and the lineage as printed by kubectl."""

import json
from pathlib import Path
from typing import Any

from demo.kube import Kube
from demo.loop import Results
from demo.reads import Obj
from demo.timeline import Timeline

LINEAGE = (
    "NAME:.metadata.name,PHASE:.status.phase,GATES:.status.gateSummary,PARENT:.spec.lineage.parent,"
    "JOB:.spec.lineage.job,TRIGGER:.spec.lineage.trigger.kind,ALERT:.spec.lineage.trigger.alert,"
    "DATA:.spec.lineage.dataDigest"
)


def build(
    kube: Kube, namespace: str, results: Results, pools: dict[str, Any], cluster: dict[str, Any], timeline: Timeline
) -> dict[str, Any]:
    """The complete report."""
    return {
        "cluster": cluster,
        "pools": pools,
        "timeline": timeline.events,
        "versions": [_version(version, results) for version in results.versions],
        "requests": results.requests,
        "alert": results.alert,
        "hops": results.hops,
        "train": results.train,
        "controls": results.controls,
        "lineage": lineage(kube, namespace),
    }


def lineage(kube: Kube, namespace: str) -> list[str]:
    """The chain from alert to version, one line per version, from one kubectl command."""
    command = ("get", "modelversions", "-n", namespace, "--sort-by=.metadata.creationTimestamp")
    return kube.run(*command, "-o", f"custom-columns={LINEAGE}").splitlines()


def write(report: dict[str, Any], path: Path) -> None:
    """Write the report atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(".new")
    staged.write_text(json.dumps(report, indent=2) + "\n")
    staged.rename(path)


def table(report: dict[str, Any]) -> str:
    """The report as a table for people."""
    lines = ["", f"{'version':28} {'in domain':>10} {'shifted':>10}  gates"]
    for version in report["versions"]:
        if version["accuracyInDomain"] is not None:
            lines.append(
                f"{version['name']:28} {version['accuracyInDomain']:>10.3f} {version['accuracyShifted']:>10.3f}  "
                + ", ".join(f"{gate['name']} {gate['verdict']}" for gate in version["gates"])
            )
    requests, alert = report["requests"], report["alert"]
    lines += [
        "",
        f"requests {requests['sent']}, failed {requests['failed']}, connections refused {requests['refused']}, "
        f"corrections {requests['feedback']}",
        f"alarms before the shift {alert['alarmsBeforeShift']}, after the promotion {alert['alarmsAfterPromotion']}; "
        f"requests before the alarm {alert['requestsBeforeAlarm']}",
        "hops: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in report["hops"].items()),
        "overlaps of the pools: " + ", ".join(f"{pair} {n}" for pair, n in report["pools"]["overlaps"].items()),
        "",
        *report["lineage"],
    ]
    return "\n".join(lines)


def _version(version: Obj, results: Results) -> dict[str, Any]:
    name = version["metadata"]["name"]
    old, shifted = results.accuracy.get(name, (None, None))
    gates = version["status"].get("gates", [])
    return {"name": name, "accuracyInDomain": old, "accuracyShifted": shifted, "gates": gates}

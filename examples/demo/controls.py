"""Two candidates that the gates must refuse, to show that the gates don't approve everything."""

from collections.abc import Callable
from typing import Any

from demo import accuracy
from demo.corpus import Row
from demo.install import CLAIM, Installed, put_rows
from demo.loop import SERVICE, Loop
from demo.pools import FAMILY
from demo.reads import Obj
from demo.traffic import Traffic

WITHOUT_REPLAY = "control-no-replay"
SWAPPED = "control-swapped"


def begin(loop: Loop, installed: Installed) -> None:
    """Start a training without replay, and a second service of the stable version for misleading corrections."""
    put_rows(installed, loop.namespace, "shifted.csv", loop.pools.shifted_traffic[:600])
    _start(loop, WITHOUT_REPLAY, _without_replay)
    storage: Obj = {"storage": f"pvc://{CLAIM}/support-desk/feedback"}
    loop.kube.apply(accuracy.pinned_service(loop.namespace, SWAPPED, FAMILY, loop.results.second, feedback=storage))


def mislead(loop: Loop, installed: Installed) -> None:
    """Send old requests to that service, correct every answer to a wrong one, and start a training on these."""
    loop.serving(SWAPPED)
    rows = swapped(loop.pools.traffic)
    image = installed.images["operator"]
    with Traffic(loop.kube, loop.namespace, image, SWAPPED, {"old": rows}, feedback_share=1, wrong_share=0) as traffic:
        traffic.phase("swapped labels", loop.pace.rate, old=1.0)
        # Compared with all old rows. With a third as many, too few answers were lost for a certain verdict.
        loop.until_sent(traffic, "swapped labels", len(rows) * 3 // 4)
    corrected = traffic.totals()["feedback"]
    loop.timeline.event(f"{SWAPPED}: /v1/feedback accepted {corrected} corrections with swapped labels")
    _start(loop, SWAPPED, _on_swapped_feedback)


def finish(loop: Loop) -> None:
    """Wait for both verdicts."""
    for name in (WITHOUT_REPLAY, SWAPPED):
        loop.results.controls.append(_verdict(name, loop.job(name)))
    loop.kube.run("delete", "inferenceservice", SWAPPED, "-n", loop.namespace, "--wait=false")


def swapped(rows: list[Row]) -> list[Row]:
    """Every row with the next category in alphabetical order."""
    categories = sorted({row.category for row in rows})
    following = dict(zip(categories, [*categories[1:], categories[0]], strict=True))
    return [Row(row.text, following[row.category]) for row in rows]


def _without_replay(spec: Obj) -> None:
    """Train only on rows of the shift, given as a source, without replay of old rows."""
    del spec["data"]["feedback"]
    uri = f"pvc://{CLAIM}/support-desk/data/shifted.csv"
    spec["data"]["sources"] = [{"name": "rows", "uri": uri, "columns": {"prompt": "text", "completion": "category"}}]
    spec["data"]["replay"]["fraction"] = 0.0
    for suite in spec["evaluation"]["suites"]:
        suite["items"] = {"feedback": "data"}.get(suite["items"], suite["items"])


def _on_swapped_feedback(spec: Obj) -> None:
    """Train on the corrections of the misled service, with the default replay."""
    spec["data"]["feedback"] = {"service": SWAPPED}
    del spec["data"]["replay"]["fraction"]


def _start(loop: Loop, name: str, change: Callable[[Obj], None]) -> None:
    """Apply the service's retraining job with one worker and one change.

    The family is the same, because another family would have no baseline, and the service's own gates must judge it.
    """
    spec: Obj = loop.get("inferenceservice", SERVICE)["spec"]["retraining"]["jobTemplate"]["spec"]
    spec["compute"] |= {"nodes": 1, "workersPerNode": 1, "parallelism": {}}  # both controls train at the same time
    change(spec)
    metadata = {"name": name, "namespace": loop.namespace}
    loop.kube.apply({"apiVersion": "driftloop.dev/v1alpha1", "kind": "FineTuneJob", "metadata": metadata, "spec": spec})


def _verdict(name: str, version: Obj) -> dict[str, Any]:
    status = version["status"]
    failed = [gate["name"] for gate in status.get("gates", []) if gate["verdict"] == "Fail"]
    return {
        "name": name,
        "version": version["metadata"]["name"],
        "phase": status["phase"],
        "failedGates": failed,
        "gates": status.get("gates", []),
    }

"""Two candidates that the gates must refuse: what the demo's approvals are worth shows in what they reject."""

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
    """Start to train without replay, from the version in service, and to serve that version to who will mislead it."""
    put_rows(installed, loop.namespace, "shifted.csv", loop.pools.shifted_traffic[:600])
    _start(loop, WITHOUT_REPLAY, _without_replay)
    storage: Obj = {"storage": f"pvc://{CLAIM}/support-desk/feedback"}
    loop.kube.apply(accuracy.pinned_service(loop.namespace, SWAPPED, FAMILY, loop.found.second, feedback=storage))


def mislead(loop: Loop, installed: Installed) -> None:
    """Ask that service the old requests, correct every answer to a wrong one, and start to train on those."""
    loop.serving(SWAPPED)
    rows = swapped(loop.pools.traffic)
    image = installed.images["operator"]
    with Traffic(loop.kube, loop.namespace, image, SWAPPED, {"old": rows}, feedback_share=1, wrong_share=0) as traffic:
        traffic.phase("swapped labels", loop.pace.rate, old=1.0)
        # Against all of the old rows: with a third as many, too few answers were lost for a gate to be sure.
        loop.until_sent(traffic, "swapped labels", len(rows) * 3 // 4)
    corrected = traffic.totals()["feedback"]
    loop.timeline.event(f"{SWAPPED}: {corrected} corrections with swapped labels taken by /v1/feedback")
    _start(loop, SWAPPED, _on_swapped_feedback)


def finish(loop: Loop) -> None:
    """Wait for both verdicts."""
    for name in (WITHOUT_REPLAY, SWAPPED):
        loop.found.controls.append(_verdict(name, loop.job(name)))
    loop.kube.run("delete", "inferenceservice", SWAPPED, "-n", loop.namespace, "--wait=false")


def swapped(rows: list[Row]) -> list[Row]:
    """Every row with the category of its neighbour in the order of categories."""
    categories = sorted({row.category for row in rows})
    following = dict(zip(categories, [*categories[1:], categories[0]], strict=True))
    return [Row(row.text, following[row.category]) for row in rows]


def _without_replay(spec: Obj) -> None:
    """Rows of the shift alone, given as a source; no old row is replayed."""
    del spec["data"]["feedback"]
    uri = f"pvc://{CLAIM}/support-desk/data/shifted.csv"
    spec["data"]["sources"] = [{"name": "rows", "uri": uri, "columns": {"prompt": "text", "completion": "category"}}]
    spec["data"]["replay"]["fraction"] = 0.0
    for suite in spec["evaluation"]["suites"]:
        suite["items"] = {"feedback": "data"}.get(suite["items"], suite["items"])


def _on_swapped_feedback(spec: Obj) -> None:
    """The corrections of the misled service, with the replay that a job has by default."""
    spec["data"]["feedback"] = {"service": SWAPPED}
    del spec["data"]["replay"]["fraction"]


def _start(loop: Loop, name: str, change: Callable[[Obj], None]) -> None:
    """Apply the service's own retraining job on one node with one change.

    The family is the service's own: another would have no baseline, and the verdict must be the one that guards it.
    """
    spec: Obj = loop.get("inferenceservice", SERVICE)["spec"]["retraining"]["jobTemplate"]["spec"]
    spec["compute"]["nodes"] = 1  # the two train beside each other
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

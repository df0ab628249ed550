"""Two candidates that the gates must refuse: what the demo's approvals are worth shows in what they reject."""

import copy
from typing import Any

import yaml

from demo.corpus import Row
from demo.install import CLAIM, ROOT, Installed, put_rows
from demo.kube import Obj
from demo.loop import Loop

WITHOUT_REPLAY = "control-no-replay"
SWAPPED = "control-swapped"


def run(loop: Loop, installed: Installed) -> None:
    """Train both from the version in service and wait for their verdicts."""
    template = _template()
    put_rows(installed, loop.namespace, "shifted.csv", loop.pools.shifted_traffic[:600])
    put_rows(installed, loop.namespace, "swapped.csv", swapped(loop.pools.traffic))
    for name, source in ((WITHOUT_REPLAY, "shifted.csv"), (SWAPPED, "swapped.csv")):
        loop.kube.apply(_job(template, loop.namespace, name, source))
        version = loop.job(name)
        loop.found.controls.append(_verdict(name, version))


def swapped(rows: list[Row]) -> list[Row]:
    """Every row with the category of its neighbour in the order of categories."""
    categories = sorted({row.category for row in rows})
    following = dict(zip(categories, [*categories[1:], categories[0]], strict=True))
    return [Row(row.text, following[row.category]) for row in rows]


def _template() -> Obj:
    """The spec that the example retrains with."""
    service = yaml.safe_load((ROOT / "examples/support-desk/inferenceservice.yaml").read_text())
    spec: Obj = service["spec"]["retraining"]["jobTemplate"]["spec"]
    return spec


def _job(template: Obj, namespace: str, name: str, source: str) -> Obj:
    """The retraining job with rows of our choice in place of feedback, and no old row replayed."""
    spec = copy.deepcopy(template)
    del spec["data"]["feedback"]
    spec["data"]["sources"] = [
        {
            "name": "rows",
            "uri": f"pvc://{CLAIM}/support-desk/data/{source}",
            "columns": {"prompt": "text", "completion": "category"},
        }
    ]
    spec["data"]["replay"]["fraction"] = 0.0
    for suite in spec["evaluation"]["suites"]:
        suite["items"] = {"feedback": "data"}.get(suite["items"], suite["items"])
    # A family of its own would have no baseline: the verdict must be the one that guards the service.
    return {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


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

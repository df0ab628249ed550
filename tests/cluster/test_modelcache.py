"""With copies of its model, a service starts new pods also while the version's storage can't be read."""

from collections.abc import Iterator

import pytest

from cluster.lab import Lab
from cluster.test_serving_faults import service as served
from demo.install import CLAIM
from demo.reads import Obj
from testcluster import wait

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.long("faults")]

NAME, COPIES = "copied", "copies-of-models"


def pods(lab: Lab) -> dict[str, bool]:
    """The service's pods, and whether they are ready."""
    found = {}
    for pod in lab.list("pods", f"driftloop.dev/service={NAME}"):
        conditions = pod["status"].get("conditions", [])
        found[pod["metadata"]["name"]] = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return found


@pytest.fixture
def version(lab: Lab, trained: str) -> Iterator[Obj]:
    """The version, served by one pod that has kept a copy. Its folder is put back at the end."""
    version: Obj = lab.get("modelversion", lab.phase(trained, "Succeeded")["status"]["version"])
    lab.judged(version["metadata"]["name"])
    folder = f"/volumes/{version['spec']['artefact']['uri'].removeprefix('pvc://')}"
    copies = {"storage": f"pvc://{CLAIM}/{COPIES}", "maxSize": "1Gi"}
    lab.apply(served(replicas=1, modelCache=copies) | {"metadata": {"name": NAME}})
    wait.until(lambda: list(pods(lab).values()) == [True], "the first pod", 240)
    lab.shell(f"mv {folder} {folder}.gone")
    yield version
    lab.shell(f"mv {folder}.gone {folder}")
    lab.kube.run("delete", "inferenceservice", NAME, "-n", lab.namespace)


def test_the_next_pod_starts_from_the_copy_while_the_storage_cannot_be_read(lab: Lab, version: Obj) -> None:
    digest = version["spec"]["artefact"]["digest"].replace(":", "-")
    assert lab.shell(f"ls /volumes/{CLAIM}/{COPIES}").split() == [digest]
    (first,) = pods(lab)
    lab.kube.run("delete", "pod", first, "-n", lab.namespace, "--wait=false")
    wait.until(lambda: any(ready and name != first for name, ready in pods(lab).items()), "a pod from the copy", 240)

"""`driftloop operator` with the real deciders: that the parts fit together. The rules have tests of their own."""

import time

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.objects import finetunejob, inferenceservice

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(120)]


def test_takes_up_all_three_kinds_and_rests(cluster: Cluster, operators: StartOperator) -> None:
    operator = operators().start().ready()
    digest = "sha256:" + "0" * 64
    version = {
        "apiVersion": "driftloop.dev/v1alpha1",
        "kind": "ModelVersion",
        "metadata": {"name": "imported"},
        "spec": {"family": "family", "artefact": {"uri": "hf://models/imported", "digest": digest}},
    }
    cluster.create(finetunejob("one"), inferenceservice("support"), version)
    for kind, name in (("ftj", "one"), ("mver", "imported"), ("dlsvc", "support")):
        eventually(lambda kind=kind, name=name: cluster.condition(kind, name, "Ready"))
        assert cluster.get(kind, name)["status"]["observedGeneration"] == 1
    eventually(lambda: cluster.list("jobs"))
    before = eventually(lambda: at_rest(cluster))
    assert operator.metric("driftloop_errors_total") == 0
    assert operator.stop() == 0
    again = operators(identity="b").start().ready()
    eventually(lambda: again.metric("driftloop_reconcile_total") >= 3)
    assert again.writes() == 0
    assert cluster.revisions() == before


def at_rest(cluster: Cluster) -> dict[str, str] | None:
    """The objects' revisions, when they are the same a second apart."""

    before = cluster.revisions()
    time.sleep(1)
    return before if cluster.revisions() == before else None

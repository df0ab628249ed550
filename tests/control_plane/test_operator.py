"""`driftloop operator` with the real deciders: the parts work together. The rules have their own tests."""

import time
from functools import partial

import pytest

from control_plane.harness import Cluster, StartOperator, eventually
from control_plane.objects import finetunejob, inferenceservice, modelversion

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


def test_takes_up_all_three_kinds_and_rests(cluster: Cluster, operators: StartOperator) -> None:
    operator = operators().start().ready()
    cluster.create(finetunejob("one"), inferenceservice("support"), modelversion("imported"))
    for kind, name in (("ftj", "one"), ("mver", "imported"), ("dlsvc", "support")):
        eventually(partial(cluster.condition, kind, name, "Ready"))
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
    """The objects' revisions, if they don't change within a second."""

    before = cluster.revisions()
    time.sleep(1)
    return before if cluster.revisions() == before else None

"""The running cluster, and a namespace of its own for each test."""

import uuid
from collections.abc import Iterator

import pytest

from cluster.interruptions import INTERRUPTS, MAIN, Interruption, NodeLoss, interrupt, lose_node
from cluster.lab import LONG, TRAINED, Lab, only_on, operator_pod, tiny_pools
from cluster.looprun import LoopRun, begun
from demo.install import Installed, install, namespace_with_claim, put_data
from demo.timeline import Timeline
from parts import runs
from testcluster import providers
from testcluster.client import Cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The cluster that runs, started first if none does; it is left running."""
    provider = providers.choose("auto")
    provider.up()
    providers.remember(provider)
    return Cluster(provider)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace under the restricted Pod Security Standard, deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Installed:
    """The chart, Prometheus and Alertmanager."""
    return install(Timeline(), "auto")


@pytest.fixture(scope="session")
def lab(installed: Installed) -> Iterator[Lab]:
    """One namespace for all fault tests, with a claim and a small corpus; each test uses names of its own."""
    name = "fault-lab"
    namespace_with_claim(installed, name)
    # Beside the operator: the other node can be lost without the writer.
    with only_on(installed.kube, operator_pod(installed.kube)["spec"]["nodeName"]):
        put_data(installed, name, tiny_pools())
    found = Lab(installed, name)
    yield found
    found.kube.run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def interrupted(lab: Lab, request: pytest.FixtureRequest) -> dict[str, Interruption]:
    """How the training of the model that tests share was interrupted: once, and in every way for the faults."""
    lab.pretrain(TRAINED, training=LONG)
    return interrupt(lab, TRAINED, INTERRUPTS if runs(request.config, "faults") else [MAIN])


@pytest.fixture(scope="session")
def trained(lab: Lab, interrupted: dict[str, Interruption]) -> str:
    """A tiny model, trained in spite of that and approved by hand: the name of its job, which is its family's too."""
    version = lab.phase(TRAINED, "Succeeded")["status"]["version"]
    assert lab.judged(version)["status"]["phase"] == "AwaitingApproval"  # pretrained: no suite can judge it
    lab.approve(version)
    return TRAINED


@pytest.fixture(scope="session")
def node_lost(lab: Lab, trained: str) -> Iterator[NodeLoss]:
    """A node lost in training. That is noticed after minutes: what needs no second node is tested until then."""
    loss = lose_node(lab, trained)
    yield loss
    loss.heal()


@pytest.fixture(scope="session")
def loop(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopRun]:
    """The whole loop, begun. It takes a quarter of an hour: other faults are tested beside it."""
    with begun(tmp_path_factory.mktemp("loop")) as run:
        yield run


@pytest.fixture(scope="session")
def loop_beside(request: pytest.FixtureRequest) -> LoopRun | None:
    """The loop, begun, if this run tests it."""
    wanted = any(item.path.name == "test_loop.py" for item in request.session.items)
    return request.getfixturevalue("loop") if wanted else None

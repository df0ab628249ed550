"""Fixtures: the running cluster, Driftloop in it, and objects that tests share."""

import uuid
from collections.abc import Iterator

import pytest

from cluster.interruptions import INTERRUPTS, MAIN, Interruption, NodeLoss, interrupt, lose_node
from cluster.lab import LONG, TRAINED, Lab, only_on, operator_pod, tiny_pools
from cluster.looprun import NAMESPACE, LoopRun, begun
from demo.install import Installed, install, namespace_with_claim, put_data
from demo.timeline import Timeline
from parts import runs
from testcluster import providers
from testcluster.client import Cluster


@pytest.fixture(scope="session")
def cluster() -> Cluster:
    """The running cluster. Started if none is running, and not stopped afterwards."""
    provider = providers.choose("auto")
    provider.up()
    providers.remember(provider)
    return Cluster(provider)


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A new namespace with the restricted Pod Security Standard, deleted afterwards."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
    yield name
    cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def installed(cluster: Cluster) -> Installed:
    """The installed chart, with Prometheus and Alertmanager."""
    return install(Timeline(), "auto")


@pytest.fixture(scope="session")
def lab(installed: Installed) -> Iterator[Lab]:
    """One namespace for all fault tests, with a claim and a small corpus. Each test uses its own names."""
    name = "fault-lab"
    namespace_with_claim(installed, name)
    # The writer's pod runs on the operator's node, so that the other node can be lost without it.
    with only_on(installed.kube, operator_pod(installed.kube)["spec"]["nodeName"]):
        put_data(installed, name, tiny_pools())
    lab = Lab(installed, name)
    yield lab
    lab.kube.run("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def interrupted(lab: Lab, request: pytest.FixtureRequest) -> dict[str, Interruption]:
    """Train the model that tests share, and interrupt its training: once, or in every way for the part `faults`."""
    lab.pretrain(TRAINED, training=LONG)
    return interrupt(lab, TRAINED, INTERRUPTS if runs(request.config, "faults") else [MAIN])


@pytest.fixture(scope="session")
def trained(lab: Lab, interrupted: dict[str, Interruption]) -> str:
    """The name of the job and family of a tiny model, trained in spite of the interruptions and approved manually."""
    version = lab.phase(TRAINED, "Succeeded")["status"]["version"]
    assert lab.judged(version)["status"]["phase"] == "AwaitingApproval"  # as a pretrained model has no suites
    lab.approve(version)
    return TRAINED


@pytest.fixture(scope="session")
def node_lost(lab: Lab, trained: str) -> Iterator[NodeLoss]:
    """A node lost during training. Kubernetes detects it after minutes; meanwhile tests that need one node run."""
    loss = lose_node(lab, trained)
    yield loss
    loss.heal()


@pytest.fixture(scope="session")
def loop(installed: Installed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopRun]:
    """The whole loop, started. It takes 15 minutes, so tests of other faults run in parallel."""
    with begun(tmp_path_factory.mktemp("loop"), NAMESPACE, "--controls") as run:
        yield run


@pytest.fixture(scope="session")
def loop_beside(request: pytest.FixtureRequest) -> LoopRun | None:
    """The loop, started, if this test run includes it."""
    included = any(item.path.name == "test_loop.py" for item in request.session.items)
    return request.getfixturevalue("loop") if included else None

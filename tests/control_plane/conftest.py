"""Fixtures: a real API server with etcd and our CRDs, and operators."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from control_plane.harness import ROOT, Cluster, OperatorProcess, StartOperator
from demo.reads import Reads
from testcluster.controlplane import ControlPlane

NUMBERS = itertools.count(1)


@pytest.fixture(scope="session")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    """A control plane with our CRDs."""
    with ControlPlane(tmp_path_factory.mktemp("plane")) as found:
        found.kubectl("apply", "-f", str(ROOT / "crds"))
        found.kubectl("wait", "--for=condition=Established", "--timeout=30s", "crd", "--all")
        yield found


@pytest.fixture(scope="session")
def reads(plane: ControlPlane) -> Reads:
    """Reads objects from the control plane."""
    return Reads(plane.kubeconfig)


@pytest.fixture
def cluster(plane: ControlPlane, reads: Reads, request: pytest.FixtureRequest) -> Cluster:
    """A new namespace for the test."""
    test = "".join(each if each.isalnum() else "-" for each in request.node.originalname.lower())
    name = f"{test[:40].strip('-')}-{next(NUMBERS)}"
    plane.kubectl("create", "namespace", name)
    return Cluster(plane, name, reads)


@pytest.fixture
def operators(cluster: Cluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[StartOperator]:
    """Creates operators for the test's namespace, not yet started. Stops them afterwards and prints their logs."""
    made: list[OperatorProcess] = []

    def make(*flags: str, identity: str = "a", script: Path | None = None) -> OperatorProcess:
        made.append(OperatorProcess(cluster, tmp_path, identity, script, *flags))
        return made[-1]

    yield make
    for each in made:
        with contextlib.suppress(Exception):
            if each.running():
                each.stop(kill=True)
        print(f"--- operator {each.identity}\n{each.log.read_text()[-6000:] if each.log.exists() else ''}")


@pytest.fixture
def simple(operators: StartOperator) -> StartOperator:
    """Creates operators with the deciders in simple.py."""
    script = Path(__file__).with_name("simple.py")
    return lambda *flags, **more: operators(*flags, script=script, **more)

"""The real API server accepts what the demo applies."""

import pytest

from demo import manifests
from demo.reads import Obj
from testcluster.controlplane import ControlPlane
from testcluster.paths import REPOSITORY

pytestmark = pytest.mark.control_plane


@pytest.mark.parametrize("folder", ["support-desk", "demo/short"])
@pytest.mark.parametrize(
    "axes",
    [
        {"pipeline": 2},
        {"tensor": 2},
        {"context": 2},
        {"dataReplicate": 2},
        {"pipeline": 2, "dataReplicate": 2, "tensor": 2},
    ],
    ids=str,
)
def test_the_trainings_of_the_demo_can_divide_their_model(plane: ControlPlane, folder: str, axes: Obj) -> None:
    rendered = manifests.divided(plane.kubectl("kustomize", str(REPOSITORY / "examples" / folder)), axes)
    answer = plane.kubectl("create", "--dry-run=server", "-o", "name", "-f", "-", stdin=rendered)
    assert len(answer.split()) == 3

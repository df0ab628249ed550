"""The light control plane, which the other tests here need."""

from pathlib import Path

import pytest

from testcluster.console import Error
from testcluster.controlplane import ControlPlane

pytestmark = [pytest.mark.control_plane, pytest.mark.timeout(600)]


def test_data_and_address_survive_crashes_of_the_api_server_and_of_etcd(tmp_path: Path) -> None:
    with ControlPlane(tmp_path) as plane:
        plane.kubectl("create", "configmap", "kept", "--from-literal=a=b")

        plane.stop_apiserver()
        with pytest.raises(Error, match="refused"):
            plane.kubectl("get", "configmap", "kept")
        plane.stop_etcd()
        plane.start_etcd()
        plane.start_apiserver()

        assert plane.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"


def test_two_run_side_by_side_and_know_nothing_of_each_other(tmp_path: Path) -> None:
    with ControlPlane(tmp_path / "one") as one, ControlPlane(tmp_path / "two") as two:
        one.kubectl("create", "namespace", "only-here")
        assert "only-here" not in two.kubectl("get", "namespaces", "-o", "name")

"""ReadWriteMany volumes without a storage system: folders that every node sees under the same path."""

import json
from pathlib import Path

from testcluster.controlplane import kubectl
from testcluster.paths import KUBECONFIG, SHARED


def provide_volume(name: str, host: Path) -> None:
    """Add a PersistentVolume `name` of its own folder; claim it by `volumeName` with an empty `storageClassName`.

    Args:
        host: where this machine keeps what the nodes see as SHARED.
    """
    folder = host / name
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o777)  # pods run as any user, and a hostPath volume knows no fsGroup
    kubectl(KUBECONFIG, "apply", "-f", "-", stdin=json.dumps(volume(name)))


def volume(name: str) -> dict[str, object]:
    """The PersistentVolume `name`."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "storageClassName": "",
            "accessModes": ["ReadWriteMany"],
            "capacity": {"storage": "100Gi"},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": str(SHARED / name), "type": "Directory"},
        },
    }

"""ReadWriteMany volumes without a storage system: folders that all nodes see under the same path."""

import json
from pathlib import Path

from testcluster.controlplane import kubectl
from testcluster.paths import KUBECONFIG, SHARED


def provide_volume(name: str, host: Path) -> None:
    """Add a PersistentVolume `name` with its own folder. Claim it by `volumeName`, with an empty `storageClassName`.

    Args:
        host: the folder on this machine that the nodes see as SHARED.
    """
    folder = host / name
    folder.mkdir(parents=True, exist_ok=True)
    # Pods run as any user, and fsGroup has no effect on hostPath: https://github.com/kubernetes/kubernetes/issues/138411
    folder.chmod(0o777)
    kubectl(KUBECONFIG, "apply", "-f", "-", stdin=json.dumps(volume(name)))


def volume(name: str) -> dict[str, object]:
    """The manifest of the PersistentVolume `name`."""
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

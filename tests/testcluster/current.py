"""The cluster of CLUSTER=current: whatever kubectl's current context points at. It is used, and left as it is."""

import os
import subprocess
from pathlib import Path

from testcluster.binaries import binary
from testcluster.console import Error, say
from testcluster.controlplane import kubectl
from testcluster.paths import KUBECONFIG


def up() -> None:
    """Check that the cluster answers, and keep its context as our kubeconfig."""
    view = [str(binary("kubectl")), "config", "view", "--minify", "--flatten", "--raw"]
    if os.environ.get("KUBECONFIG") and Path(os.environ["KUBECONFIG"]).resolve() == KUBECONFIG:
        raise Error("CLUSTER=current with KUBECONFIG set to our own copy: point KUBECONFIG at your own file")
    context = subprocess.run(view, capture_output=True, text=True, check=False)
    if context.returncode != 0:
        raise Error(f"CLUSTER=current needs a current context of kubectl: {context.stderr.strip()}")
    KUBECONFIG.parent.mkdir(parents=True, exist_ok=True)
    KUBECONFIG.touch(mode=0o600)
    KUBECONFIG.write_text(context.stdout)
    say(f"kubeconfig: export KUBECONFIG={KUBECONFIG}\n{status()}")


def down() -> None:
    """Forget the context; the cluster isn't ours to remove."""
    KUBECONFIG.unlink(missing_ok=True)


def provide_images(names: list[str]) -> dict[str, str]:
    """Images for a cluster of the user's own come from a registry that it can pull from."""
    wanted = ", ".join(f'"{name}": "REGISTRY/driftloop/{name}:TAG"' for name in names if name != "monitoring")
    raise Error(f"CLUSTER=current: push the images to a registry and name them: DRIFTLOOP_IMAGES='{{{wanted}}}'")


def add_volume(name: str) -> None:
    """Storage of a cluster of the user's own is claimed by its storage classes."""
    raise Error("CLUSTER=current: claim storage with a storage class of that cluster")


def fail_node(name: str) -> None:
    """No node of a cluster that isn't ours is harmed."""
    raise Error("CLUSTER=current: nodes of a cluster that isn't ours are left alone")


heal_node = fail_node


def status() -> str:
    """What the API server says of the nodes."""
    return kubectl(KUBECONFIG, "get", "nodes", "-o", "wide")

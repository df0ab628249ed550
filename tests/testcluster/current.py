"""The cluster of CLUSTER=current: the cluster of kubectl's current context. It is used but never changed."""

import os
import subprocess
from pathlib import Path

from testcluster.binaries import binary
from testcluster.console import Error, say
from testcluster.controlplane import kubectl
from testcluster.files import replace_text
from testcluster.paths import KUBECONFIG


def up() -> None:
    """Check that the cluster answers, and copy its context to our kubeconfig."""
    view = [str(binary("kubectl")), "config", "view", "--minify", "--flatten", "--raw"]
    if os.environ.get("KUBECONFIG") and Path(os.environ["KUBECONFIG"]).resolve() == KUBECONFIG:
        raise Error("CLUSTER=current: KUBECONFIG points at testcluster's own copy; set it to your own file")
    context = subprocess.run(view, capture_output=True, text=True, check=False)
    if context.returncode != 0:
        raise Error(f"CLUSTER=current needs a current context in kubectl: {context.stderr.strip()}")
    replace_text(KUBECONFIG, context.stdout)
    say(f"kubeconfig: export KUBECONFIG={KUBECONFIG}\n{status()}")


def down() -> None:
    """Forget the context. The cluster itself is not removed."""
    KUBECONFIG.unlink(missing_ok=True)


def provide_images(names: list[str]) -> dict[str, str]:
    """Raise Error: a user's own cluster pulls images from a registry."""
    example = ", ".join(f'"{name}": "REGISTRY/driftloop/{name}:TAG"' for name in names if name != "monitoring")
    raise Error(f"CLUSTER=current: push the images to a registry and set DRIFTLOOP_IMAGES='{{{example}}}'")


def add_volume(name: str) -> None:
    """Raise Error: storage in a user's own cluster comes from its storage classes."""
    raise Error("CLUSTER=current: claim storage with a storage class of that cluster")


def fail_node(name: str) -> None:
    """Raise Error: the nodes of a user's own cluster are never changed."""
    raise Error("CLUSTER=current: testcluster doesn't change the nodes of your own cluster")


heal_node = fail_node


def status() -> str:
    """The nodes as the API server reports them."""
    return kubectl(KUBECONFIG, "get", "nodes", "-o", "wide")

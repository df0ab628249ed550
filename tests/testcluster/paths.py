"""The paths of the tool's files."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# The number of the cluster on this machine. Clusters share only the cache. Tests of the tool itself use number 1.
INSTANCE = int(os.environ.get("DRIFTLOOP_INSTANCE") or 0)
SUFFIX = f"-{INSTANCE}" if INSTANCE else ""
NAME = f"driftloop-testcluster{SUFFIX}"

# One folder per machine, not per checkout: a cluster uses the machine's addresses, network namespaces and cgroups, so
# each checkout must find the remains of a cluster of another checkout.
# Short, as the path of a Unix socket may have at most 107 bytes.
STATE = Path(f"/var/lib/{NAME}")

# A folder that all nodes see under the same path (kind-config.yaml mounts it there too).
SHARED = STATE / "shared"

# Files for the user's shell and the tests, together with the checkout's other build output.
BUILD = REPOSITORY / "build" / f"cluster{SUFFIX}"
KUBECONFIG = BUILD / "kubeconfig"


def cache() -> Path:
    """The folder for binaries and images, which `down` keeps. `DRIFTLOOP_CACHE` changes its place."""
    configured = os.environ.get("DRIFTLOOP_CACHE")
    return Path(configured).resolve() if configured else Path.home() / ".cache" / "driftloop"

"""Where the tool keeps things."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

# Which of the machine's clusters is meant; they share the cache alone. Tests of the tool itself use number 1.
INSTANCE = int(os.environ.get("DRIFTLOOP_INSTANCE") or 0)
SUFFIX = f"-{INSTANCE}" if INSTANCE else ""
NAME = f"driftloop-testcluster{SUFFIX}"

# One place a machine, not one a checkout: a cluster's addresses, network namespaces and cgroups are the machine's, so
# every checkout must find the one that another, perhaps killed, left behind.
# Short on purpose too: a Unix socket's path may have 107 bytes, which a deep checkout would exceed.
STATE = Path(f"/var/lib/{NAME}")

# One folder that every node sees under the same path (kind-config.yaml mounts it there as well).
SHARED = STATE / "shared"

# What a user's shell and the tests read; thrown away with the checkout's other build output.
BUILD = REPOSITORY / "build" / f"cluster{SUFFIX}"
KUBECONFIG = BUILD / "kubeconfig"


def cache() -> Path:
    """The folder for what is costly to make: binaries and images. Survives `down`; `DRIFTLOOP_CACHE` moves it."""
    chosen = os.environ.get("DRIFTLOOP_CACHE")
    return Path(chosen).resolve() if chosen else Path.home() / ".cache" / "driftloop"

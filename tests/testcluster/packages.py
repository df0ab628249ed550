"""The Debian packages that the local cluster needs."""

import contextlib
import fcntl
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from testcluster.console import Error, Step

# For each package a program that shows whether it is installed.
PACKAGES = {
    "buildah": "buildah",
    "catatonit": "catatonit",
    "conntrack": "conntrack",
    "containerd": "containerd",
    "containernetworking-plugins": "/usr/lib/cni/ptp",
    "iproute2": "ip",
    "mmdebstrap": "mmdebstrap",
    "nftables": "nft",
    "openssl": "openssl",
    "runc": "runc",
    "skopeo": "skopeo",
}
# Packages only for tests: an Alertmanager, and promtool to fill a Prometheus with samples.
FOR_TESTS = {"prometheus": "promtool", "prometheus-alertmanager": "prometheus-alertmanager"}
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LOCK = Path("/tmp/driftloop-packages.lock")
_POLICY = Path("/usr/sbin/policy-rc.d")


def missing(packages: Mapping[str, str] = PACKAGES) -> list[str]:
    """The packages that are not installed."""
    return [package for package, program in packages.items() if not shutil.which(program, path=_PATH)]


def ensure(packages: Mapping[str, str] = PACKAGES) -> None:
    """Install missing packages. Raises Error with the command if this is not Debian or the user is not root."""
    if missing(packages):
        with _LOCK.open("w") as lock:  # with two processes at once, apt would refuse the second
            fcntl.flock(lock, fcntl.LOCK_EX)
            _install(missing(packages))


def _install(packages: Sequence[str]) -> None:
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Error(f"missing: {', '.join(packages)}. Install as root on Debian with:\n  {' '.join(command)}")
    with Step(f"install {', '.join(packages)}"), _no_daemons():
        _apt(["apt-get", "update"])
        _apt(command)


def _apt(command: list[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Error(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-2000:]}")


@contextlib.contextmanager
def _no_daemons() -> Iterator[None]:
    """Keep Debian from starting the services of new packages, such as its own containerd."""
    if _POLICY.exists():  # an existing policy of an administrator is kept
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()

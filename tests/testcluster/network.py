"""A bridge on the machine, and for each node a network namespace that is connected to it by a veth pair."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

from testcluster.console import Error
from testcluster.controlplane import SERVICE_CIDR
from testcluster.paths import INSTANCE, SUFFIX

_NODES, _PODS = 200 + 3 * INSTANCE, 201 + 3 * INSTANCE  # second byte of the addresses
BRIDGE = f"driftloop{INSTANCE}"
MACHINE = f"10.{_NODES}.0.1"  # the machine's address on the bridge; the API server and the cluster's DNS listen here
POD_CIDR = f"10.{_PODS}.0.0/16"


@dataclass(frozen=True)
class NodeNetwork:
    """The names and addresses of one node's network.

    Attributes:
        index: 1 for the first node.
    """

    node: str
    index: int

    @property
    def netns(self) -> str:
        return f"driftloop{SUFFIX}-{self.node}"

    @property
    def netns_file(self) -> str:
        return f"/run/netns/{self.netns}"

    @property
    def cable(self) -> str:
        """The machine's end of the veth pair. The name of a link may have at most 15 characters."""
        return f"driftloop{SUFFIX}-{self.index}"

    @property
    def address(self) -> str:
        return f"10.{_NODES}.0.{10 + self.index}"

    @property
    def pod_cidr(self) -> str:
        return f"10.{_PODS}.{self.index}.0/24"


def create(nodes: list[NodeNetwork]) -> None:
    """Create the bridge, namespaces, links and routes that don't exist."""
    if not _exists(BRIDGE):
        _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "replace", f"{MACHINE}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for node in nodes:
        _create_node(node)
    for node in nodes:
        _ip("route", "replace", node.pod_cidr, "via", node.address, "dev", BRIDGE)
        for other in nodes:
            if other != node:
                _ip("-n", node.netns, "route", "replace", other.pod_cidr, "via", other.address)
    # Lets the machine itself use ClusterIPs: the API server for webhooks, and clients in tests.
    _ip("route", "replace", SERVICE_CIDR, "via", nodes[0].address, "dev", BRIDGE)


def _create_node(node: NodeNetwork) -> None:
    if not Path(node.netns_file).exists():
        _ip("netns", "add", node.netns)
    if not _exists(node.cable):
        _ip("link", "add", node.cable, "type", "veth", "peer", "name", "eth0", "netns", node.netns)
        _ip("link", "set", node.cable, "master", BRIDGE)
    _ip("link", "set", node.cable, "up")
    _ip("-n", node.netns, "address", "replace", f"{node.address}/24", "dev", "eth0")
    _ip("-n", node.netns, "link", "set", "lo", "up")
    _ip("-n", node.netns, "link", "set", "eth0", "up")
    _ip("-n", node.netns, "route", "replace", "default", "via", MACHINE)
    # The node has to forward all packets of its pods.
    forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
    _run("nsenter", f"--net={node.netns_file}", "sh", "-c", forward)


def connect(node: NodeNetwork, connected: bool) -> None:
    """Connect or disconnect the node."""
    _ip("link", "set", node.cable, "up" if connected else "down")


def remove(nodes: list[NodeNetwork]) -> None:
    """Remove everything that exists. Addresses and routes disappear with their links."""
    for node in nodes:
        if _exists(node.cable):
            _ip("link", "delete", node.cable)
        if Path(node.netns_file).exists():
            _ip("netns", "delete", node.netns)
    if _exists(BRIDGE):
        _ip("link", "delete", BRIDGE)


def _exists(link: str) -> bool:
    return Path(f"/sys/class/net/{link}").exists()


def _ip(*arguments: str) -> None:
    _run("ip", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Error(f"{' '.join(command)}: {done.stderr.strip()}")

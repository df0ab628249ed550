"""The cluster of CLUSTER=local: its start, its removal, and faults for tests."""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from testcluster import builder, cgroups, containers, network, packages, wait
from testcluster.binaries import binary, every_binary
from testcluster.console import Error, Step, say
from testcluster.controlplane import (
    ADMIN_GROUP,
    apiserver_command,
    etcd_command,
    free_port,
    is_ready,
    kubectl,
    serving_certificate,
)
from testcluster.files import replace_text
from testcluster.network import MACHINE, POD_CIDR, NodeNetwork
from testcluster.node import DNS_DOMAIN, Node
from testcluster.paths import KUBECONFIG, NAME, SHARED, STATE
from testcluster.pki import Authority
from testcluster.services import LOGS, Service
from testcluster.storage import provide_volume

NODES = [Node(NodeNetwork("node-a", 1)), Node(NodeNetwork("node-b", 2))]
NETWORKS = [node.network for node in NODES]
SERVER = f"https://{MACHINE}:6443"
MANIFESTS = Path(__file__).parent / "manifests.yaml"
_LOCK = Path(f"/run/{NAME}.lock")


@dataclass(frozen=True)
class Cluster:
    """The cluster's daemons with their configuration."""

    authority: Authority
    etcd_port: int

    @cached_property
    def control_plane(self) -> list[Service]:
        """The control plane's daemons in order of start."""
        serving = serving_certificate(self.authority, MACHINE)
        return [
            Service("etcd", etcd_command(STATE / "etcd", self.etcd_port, self.authority, serving)),
            Service("kube-apiserver", apiserver_command(MACHINE, 6443, self.etcd_port, self.authority, serving)),
            self._controller_manager(),
            self._scheduler(),
            self._coredns(),
        ]

    @cached_property
    def nodes(self) -> list[Service]:
        """The nodes' daemons in order of start. containerd starts before them, see `containers`."""
        return [
            service
            for node in NODES
            for service in (node.kubelet(SERVER, self.authority), node.kube_proxy(SERVER, self.authority))
        ]

    @property
    def services(self) -> list[Service]:
        return [*self.control_plane, *(node.containerd() for node in NODES), *self.nodes]

    def service(self, name: str) -> Service:
        for service in self.services:
            if service.name == name:
                return service
        raise Error(f"no service {name}; known services: {', '.join(service.name for service in self.services)}")

    def _controller_manager(self) -> Service:
        kubeconfig = STATE / "kube-controller-manager.kubeconfig"
        user = "system:kube-controller-manager"
        return Service(
            "kube-controller-manager",
            [
                str(binary("kube-controller-manager")),
                f"--kubeconfig={kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
                "--use-service-account-credentials=true",
                f"--service-account-private-key-file={self.authority.service_accounts.key}",
                f"--root-ca-file={self.authority.ca.cert}",
                f"--cluster-cidr={POD_CIDR}",
                "--node-monitor-period=2s",
                "--node-monitor-grace-period=12s",
            ],
            {str(kubeconfig): self.authority.kubeconfig(SERVER, user)},
        )

    def _scheduler(self) -> Service:
        kubeconfig = STATE / "kube-scheduler.kubeconfig"
        return Service(
            "kube-scheduler",
            [
                str(binary("kube-scheduler")),
                f"--kubeconfig={kubeconfig}",
                "--leader-elect=false",
                "--secure-port=0",
            ],
            {str(kubeconfig): self.authority.kubeconfig(SERVER, "system:kube-scheduler")},
        )

    def _coredns(self) -> Service:
        kubeconfig, corefile = STATE / "coredns.kubeconfig", STATE / "Corefile"
        return Service(
            "coredns",
            [str(binary("coredns")), f"-conf={corefile}"],
            {
                str(kubeconfig): self.authority.kubeconfig(SERVER, "driftloop:coredns"),
                str(corefile): f"""\
.:53 {{
    bind {MACHINE}
    errors
    kubernetes {DNS_DOMAIN} in-addr.arpa {{
        kubeconfig {kubeconfig}
        pods insecure
        ttl 5
    }}
    forward . /etc/resolv.conf
}}
""",
            },
        )


def load() -> Cluster:
    """The running cluster. Raises Error if there is none."""
    if not (STATE / "ports.json").exists():
        raise Error("no local cluster is running; start it with: make cluster CLUSTER=local")
    return _cluster()


def up() -> None:
    """Start the cluster or its missing parts. The remains of a killed run are reused or removed."""
    packages.ensure()
    every_binary()
    with _exclusive():
        if (STATE / "ports.json").exists() and any(service.changed() for service in _cluster().services):
            with Step("remove a cluster with other versions or settings"):
                _clear()
        STATE.mkdir(parents=True, exist_ok=True)
        _start(_cluster())
    say(f"kubeconfig: export KUBECONFIG={KUBECONFIG}")


def down() -> None:
    """Remove all processes, mounts, links, namespaces, cgroups and files of the cluster, but not the cache."""
    with _exclusive(), Step("remove the local cluster"):
        _clear()
    KUBECONFIG.unlink(missing_ok=True)


def _cluster() -> Cluster:
    authority = Authority(STATE / "pki")
    ports = STATE / "ports.json"
    if not ports.exists():
        replace_text(ports, json.dumps({"etcd": free_port()}))
    return Cluster(authority, json.loads(ports.read_text())["etcd"])


def _start(cluster: Cluster) -> None:
    network.create(NETWORKS)
    etcd, apiserver, *others = cluster.control_plane
    with Step("etcd and kube-apiserver"):
        etcd.start()
        apiserver.start()
        wait.until(lambda: apiserver.check() and is_ready(SERVER, cluster.authority), "kube-apiserver", 120)
        replace_text(KUBECONFIG, cluster.authority.kubeconfig(SERVER, "admin", ADMIN_GROUP))
    with Step("containerd on both nodes"):
        for node in NODES:
            containers.start(node)
    with Step("controller manager, scheduler, cluster DNS"):
        kubectl(KUBECONFIG, "apply", "-f", str(MANIFESTS))  # first: CoreDNS without rights waits 5 s before a retry
        for service in others:
            service.start()
        wait.until(_default_account_exists, "the controller manager", 30)
        wait.until(_dns_answers, f"the cluster's DNS; see {LOGS}/coredns.log", 30)
    with Step("kubelet and kube-proxy on both nodes"):
        for node in NODES:
            cgroups.make_node_group(node.name)
        for service in cluster.nodes:
            service.start()
        for node in NODES:
            wait.until(lambda node=node: _node_ready(node.name), f"{node.name}; see {LOGS}", 60)  # type: ignore[misc]
    provide_volume("driftloop-shared", SHARED)


def _clear() -> None:
    cgroups.kill_everything()
    containers.remove_shim_sockets(NODES)
    _unmount_below(STATE)
    network.remove(NETWORKS)
    cgroups.remove_branch()
    if STATE.exists():
        shutil.rmtree(STATE)


def _unmount_below(folder: Path) -> None:
    """Unmount everything in `folder`. Raises Error if a mount remains, as the caller then deletes the folder."""
    for target in reversed(_mounts_below(folder)):
        subprocess.run(["umount", target], check=False, capture_output=True)
    if left := _mounts_below(folder):
        raise Error(f"still mounted, unmount manually: {', '.join(left)}")


def _mounts_below(folder: Path) -> list[str]:
    targets = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [target for target in map(_unescape, targets) if target.startswith(f"{folder}/")]


def _unescape(target: str) -> str:
    return target.encode().decode("unicode_escape")  # the kernel writes a space as \040


def fail_node(name: str) -> None:
    """Simulate the loss of a machine: disconnect the node and kill all processes of its pods.

    If they continued without a network, they would still use the shared volume, and a training could finish there.
    """
    network.connect(_node(name).network, connected=False)
    cgroups.send(cgroups.processes(cgroups.node_group(name)), signal.SIGKILL)


def heal_node(name: str) -> None:
    """Reconnect the node."""
    network.connect(_node(name).network, connected=True)


def _node(name: str) -> Node:
    for node in NODES:
        if node.name == name:
            return node
    raise Error(f"no node {name}; known nodes: {', '.join(node.name for node in NODES)}")


def provide_images(names: list[str]) -> dict[str, str]:
    """Build the images `names` if they changed, and load them into the nodes. Returns their references by name."""
    load()
    return builder.provide(names, NODES)


def add_volume(name: str) -> None:
    """Add a ReadWriteMany PersistentVolume `name` with its own folder."""
    provide_volume(name, SHARED)


def status() -> str:
    """The state of the daemons, and the nodes as the API server reports them."""
    lines = [f"{'running' if service.running() else 'STOPPED':8} {service.name}" for service in load().services]
    try:
        nodes = kubectl(KUBECONFIG, "get", "nodes", "-o", "wide", "--request-timeout=5s")
    except Error as failed:
        nodes = str(failed)
    return "\n".join([*lines, f"logs: {LOGS}", nodes])


def _default_account_exists() -> bool:
    return bool(kubectl(KUBECONFIG, "get", "serviceaccount/default", "--ignore-not-found", "-o", "name"))


def _node_ready(name: str) -> bool:
    template = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl(KUBECONFIG, "get", f"node/{name}", "--ignore-not-found", "-o", template) == "True"


def _dns_answers() -> bool:
    """Whether the DNS server resolves the API server's Service, by a query for its A record over UDP."""
    name = f"kubernetes.default.svc.{DNS_DOMAIN}"
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    query = struct.pack(">6H", 1, 0x0100, 1, 0, 0, 0) + labels + struct.pack(">BHH", 0, 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            client.sendto(query, (MACHINE, 53))
            answer = client.recv(512)
        except OSError:
            return False
    return int.from_bytes(answer[6:8], "big") > 0  # the number of answers


@contextlib.contextmanager
def _exclusive() -> Iterator[None]:
    """Allow only one `up` or `down` at a time on this machine, also from other checkouts."""
    if os.geteuid() != 0:
        raise Error("the local cluster creates network namespaces and mounts: run as root, or use CLUSTER=kind")
    with _LOCK.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

"""Command lines of etcd and kube-apiserver, and a light control plane for tests that need no nodes.

    with ControlPlane(tmp_path) as plane:
        plane.kubectl("apply", "-f", "crds/")

Several can run at once, each with its own ports. There is no controller manager: Jobs create no pods, namespaces never
finish terminating, and children are not garbage-collected. Tests with it check how the real API server validates,
defaults, admits, merges and watches.
"""

import random
import socket
import subprocess
import urllib.request
from pathlib import Path
from ssl import SSLContext, create_default_context
from types import TracebackType

from testcluster import wait
from testcluster.binaries import binary
from testcluster.console import Error
from testcluster.paths import INSTANCE
from testcluster.pki import Authority, Certificate

SERVICE_CIDR = f"10.{202 + 3 * INSTANCE}.0.0/16"
KUBERNETES_SERVICE = f"10.{202 + 3 * INSTANCE}.0.1"  # always the first address of SERVICE_CIDR
ADMIN_GROUP = "system:masters"


def serving_certificate(authority: Authority, address: str) -> Certificate:
    """The certificate of etcd and the API server at `address`, for all names that clients use."""
    names = [
        "localhost",
        "kubernetes.default.svc",
        "kubernetes.default",
        "kubernetes.default.svc.cluster.local",
    ]
    addresses = sorted({"127.0.0.1", KUBERNETES_SERVICE, address})
    return authority.issue(
        "kube-apiserver", names=[f"DNS:{name}" for name in names] + [f"IP:{address}" for address in addresses]
    )


def etcd_command(data: Path, port: int, authority: Authority, serving: Certificate) -> list[str]:
    """etcd with one member on 127.0.0.1:`port`, only for clients with our certificates.

    The peer address is a Unix socket in the working directory, as a single member needs no second port. Data is not
    synced to disk: a test cluster has to survive a killed etcd, but not a power failure.
    """
    url = f"https://127.0.0.1:{port}"
    return [
        str(binary("etcd")),
        "--name=default",
        f"--data-dir={data}",
        f"--listen-client-urls={url}",
        f"--advertise-client-urls={url}",
        "--listen-peer-urls=unix://localhost:2380",
        "--initial-advertise-peer-urls=unix://localhost:2380",
        "--initial-cluster=default=unix://localhost:2380",
        f"--cert-file={serving.cert}",
        f"--key-file={serving.key}",
        "--client-cert-auth",
        f"--trusted-ca-file={authority.ca.cert}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_command(address: str, port: int, etcd_port: int, authority: Authority, serving: Certificate) -> list[str]:
    """kube-apiserver on `address`:`port` with RBAC. Pod Security and admission policies are enabled by default."""
    to_kubelet = authority.issue("kube-apiserver-kubelet-client", ADMIN_GROUP)
    return [
        str(binary("kube-apiserver")),
        f"--etcd-servers=https://127.0.0.1:{etcd_port}",
        f"--etcd-cafile={authority.ca.cert}",
        f"--etcd-certfile={serving.cert}",
        f"--etcd-keyfile={serving.key}",
        f"--bind-address={address}",
        f"--advertise-address={address}",
        f"--secure-port={port}",
        f"--tls-cert-file={serving.cert}",
        f"--tls-private-key-file={serving.key}",
        f"--client-ca-file={authority.ca.cert}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--service-cluster-ip-range={SERVICE_CIDR}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={authority.service_accounts.cert}",
        f"--service-account-signing-key-file={authority.service_accounts.key}",
        f"--kubelet-client-certificate={to_kubelet.cert}",
        f"--kubelet-client-key={to_kubelet.key}",
        f"--kubelet-certificate-authority={authority.ca.cert}",
        # By default `logs` and `exec` look up the node's name, which the machine's resolver doesn't know.
        "--kubelet-preferred-address-types=InternalIP",
        "--allow-privileged=true",
        "--profiling=false",
        "--shutdown-delay-duration=0s",
    ]


def aggregation_flags(authority: Authority) -> list[str]:
    """Flags with which kube-apiserver passes requests on to API servers that are registered as an APIService.

    It calls the addresses in the Service's EndpointSlices, as no kube-proxy serves the Service's own address.
    """
    front = authority.issue("front-proxy-client")
    return [
        f"--requestheader-client-ca-file={authority.ca.cert}",
        "--requestheader-allowed-names=front-proxy-client",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={front.cert}",
        f"--proxy-client-key-file={front.key}",
        "--enable-aggregator-routing=true",
    ]


def free_port() -> int:
    """A TCP port that is free, and below the ports for outgoing connections (32768 and above).

    Otherwise an outgoing connection could take the port while a stopped server is not running.
    """
    for port in random.sample(range(20000, 32768), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Error("no free TCP port between 20000 and 32767")


def is_ready(server: str, authority: Authority) -> bool:
    """Whether the API server at `server` (a URL) reports that it is ready."""
    try:
        with urllib.request.urlopen(f"{server}/readyz", timeout=2, context=_admin_context(authority)) as answer:
            return bool(answer.status == 200)
    except OSError:  # refused, reset, timed out, or an HTTP error status
        return False


def _admin_context(authority: Authority) -> SSLContext:
    admin = authority.issue("admin", ADMIN_GROUP)
    context = create_default_context(cafile=str(authority.ca.cert))
    context.load_cert_chain(admin.cert, admin.key)
    return context


class ControlPlane:
    """A real API server and etcd in `directory`, as child processes that end with this process.

    Start it from the main thread, as the kernel ends the children together with the thread that started them.

    Args:
        directory: folder for its data, certificates and logs.
        aggregates: whether other API servers can be registered.

    Attributes:
        authority: its certificate authority.
        kubeconfig: path of the administrator's kubeconfig.
        server: URL of the API server.
    """

    def __init__(self, directory: Path, *, aggregates: bool = False) -> None:
        self.directory = directory.resolve()
        self.directory.mkdir(parents=True, exist_ok=True)
        self.kubeconfig = self.directory / "kubeconfig"
        self.authority = Authority(self.directory / "pki")
        self._serving = serving_certificate(self.authority, "127.0.0.1")
        self._more = aggregation_flags(self.authority) if aggregates else []
        self._port, self._etcd_port = free_port(), free_port()
        self.server = f"https://127.0.0.1:{self._port}"
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "ControlPlane":
        try:
            self.start_etcd()
            self.start_apiserver()
            self.kubeconfig.write_text(self.kubeconfig_of("admin", ADMIN_GROUP))
            wait.until(lambda: self._has("namespace/default"), "the namespace `default`", 10)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop both, if they are running."""
        self.stop_apiserver()
        self.stop_etcd()

    def start_etcd(self) -> None:
        """Start etcd, with its previous data if there are any."""
        self._start("etcd", etcd_command(self.directory / "etcd", self._etcd_port, self.authority, self._serving))

    def stop_etcd(self) -> None:
        """Kill etcd, like a crash."""
        self._kill("etcd")

    def start_apiserver(self) -> None:
        """Start the API server, always on the same port, and wait until it is ready."""
        command = apiserver_command("127.0.0.1", self._port, self._etcd_port, self.authority, self._serving)
        # Without a controller manager namespaces have no ServiceAccount, so this plugin would refuse all pods.
        self._start("kube-apiserver", [*command, *self._more, "--disable-admission-plugins=ServiceAccount"])
        wait.until(self._apiserver_answers, f"kube-apiserver; see {self.directory}/kube-apiserver.log", 60)

    def stop_apiserver(self) -> None:
        """Kill the API server, like a crash: watches break and connections are refused."""
        self._kill("kube-apiserver")

    def kubeconfig_of(self, user: str, group: str = "") -> str:
        """The content of a kubeconfig for a user."""
        return self.authority.kubeconfig(self.server, user, group)

    def admin_context(self) -> SSLContext:
        """The administrator's TLS settings, for other clients than kubectl."""
        return _admin_context(self.authority)

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run kubectl as administrator and return its output. Raises Error with kubectl's message."""
        return kubectl(self.kubeconfig, *arguments, stdin=stdin)

    def _has(self, name: str) -> bool:
        return bool(self.kubectl("get", name, "--ignore-not-found", "-o", "name"))

    def _apiserver_answers(self) -> bool:
        for name, child in self._children.items():
            if child.poll() is not None:
                log = (self.directory / f"{name}.log").read_text()
                raise Error(f"{name} ended with {child.returncode}:\n{log[-2000:]}")
        return is_ready(self.server, self.authority)

    def _start(self, name: str, command: list[str]) -> None:
        if name in self._children:
            return
        with (self.directory / f"{name}.log").open("ab") as log:
            self._children[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],  # so that a killed test run leaves no processes
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def _kill(self, name: str) -> None:
        if child := self._children.pop(name, None):
            child.kill()
            child.wait()


def kubectl(kubeconfig: Path, *arguments: str, stdin: str | None = None, seconds: float = 60) -> str:
    """Run kubectl with `kubeconfig` and return its standard output. Raises Error with kubectl's message."""
    command = [str(binary("kubectl")), f"--kubeconfig={kubeconfig}", *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False)
    if done.returncode != 0:
        raise Error(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout

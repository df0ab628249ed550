"""A worker node: containerd, kubelet and kube-proxy in the node's network namespace."""

import json
from dataclasses import dataclass
from pathlib import Path

from testcluster import cgroups
from testcluster.binaries import binary
from testcluster.network import MACHINE, POD_CIDR, NodeNetwork
from testcluster.paths import STATE, SUFFIX, cache
from testcluster.pki import Authority
from testcluster.services import Service

SANDBOX_IMAGE = "localhost/driftloop-pause:1"
DNS_DOMAIN = "cluster.local"


@dataclass(frozen=True)
class Node:
    """One node, with the paths of its files."""

    network: NodeNetwork

    @property
    def name(self) -> str:
        return self.network.node

    @property
    def directory(self) -> Path:
        return STATE / self.name

    @property
    def socket(self) -> Path:
        return self.directory / "containerd.sock"

    @property
    def images(self) -> Path:
        """containerd's store. It is in the cache, as loading gigabytes of images again takes minutes."""
        return cache() / f"nodes{SUFFIX}" / self.name

    def containerd(self) -> Service:
        config = self.directory / "containerd.toml"
        cni = self.directory / "cni"
        return Service(
            f"{self.name}-containerd",
            ["/usr/bin/containerd", f"--config={config}"],
            {
                str(config): containerd_config(self.images, self.directory, self.socket, cni),
                str(cni / "10-pods.conflist"): cni_config(self.network.pod_cidr, self.directory),
            },
            self.network.netns_file,
        )

    def kubelet(self, server: str, authority: Authority) -> Service:
        serving = authority.issue(f"kubelet-{self.name}", names=[f"DNS:{self.name}", f"IP:{self.network.address}"])
        config = self.directory / "kubelet.json"
        kubeconfig = self.directory / "kubelet.kubeconfig"
        resolver = self.directory / "resolv.conf"
        return Service(
            f"{self.name}-kubelet",
            [
                str(binary("kubelet")),
                f"--config={config}",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--node-ip={self.network.address}",
                f"--root-dir={self.directory / 'kubelet'}",
                f"--cert-dir={self.directory / 'kubelet-pki'}",
            ],
            {
                str(config): json.dumps(
                    {
                        **kubelet_config(self.network.address, self.socket, self.directory),
                        "authentication": {
                            "anonymous": {"enabled": False},
                            "webhook": {"enabled": True},
                            "x509": {"clientCAFile": str(authority.ca.cert)},
                        },
                        "authorization": {"mode": "Webhook"},
                        "tlsCertFile": str(serving.cert),
                        "tlsPrivateKeyFile": str(serving.key),
                        "cgroupRoot": f"/{cgroups.BRANCH}/{self.name}",
                        "resolvConf": str(resolver),
                    },
                    indent=1,
                ),
                str(kubeconfig): authority.kubeconfig(server, f"system:node:{self.name}", "system:nodes"),
                str(resolver): f"nameserver {MACHINE}\n",
            },
            self.network.netns_file,
        )

    def kube_proxy(self, server: str, authority: Authority) -> Service:
        kubeconfig = self.directory / "kube-proxy.kubeconfig"
        return Service(
            f"{self.name}-kube-proxy",
            [
                str(binary("kube-proxy")),
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={self.name}",
                f"--cluster-cidr={POD_CIDR}",
                "--proxy-mode=nftables",
                # Without these kube-proxy exits, as it can't set the sysctls in a network namespace:
                # https://github.com/kubernetes-sigs/kind/pull/2241
                "--conntrack-max-per-core=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ],
            {str(kubeconfig): authority.kubeconfig(server, "system:kube-proxy")},
            self.network.netns_file,
        )


def containerd_config(root: Path, directory: Path, socket: Path, cni: Path) -> str:
    """containerd's configuration, with all files in the node's own folders."""
    return f"""\
version = 2
root = "{root}"
state = "{directory}/containerd"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{directory}/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{SANDBOX_IMAGE}"
# Negative scores need CAP_SYS_RESOURCE. Without it, every pod fails to start with
# "can't get final child's PID from pipe: EOF": https://github.com/moby/moby/issues/46563
restrict_oom_score_adj = true
# Keeps the pods' namespaces in our own folder, so that `down` finds them.
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni}"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
"""


def cni_config(pod_cidr: str, directory: Path) -> str:
    """The pods' network, with one veth pair per pod.

    Not the `bridge` plugin: without br_netfilter, traffic between two pods on one bridge bypasses connection tracking,
    so that replies from a ClusterIP have the wrong address: https://github.com/kubernetes/kubernetes/issues/87426
    """
    return json.dumps(
        {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "ptp",
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(directory / "cni-addresses"),
                        "ranges": [[{"subnet": pod_cidr}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        },
        indent=1,
    )


def kubelet_config(address: str, socket: Path, directory: Path) -> dict[str, object]:
    """The kubelet's configuration without credentials."""
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": address,
        "clusterDNS": [MACHINE],
        "clusterDomain": DNS_DOMAIN,
        "containerRuntimeEndpoint": f"unix://{socket}",
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": [],
        "makeIPTablesUtilChains": False,
        # In the default folder, each kubelet would delete the other's logs as logs of unknown pods.
        "podLogsDir": str(directory / "pod-logs"),
        "volumePluginDir": str(directory / "volume-plugins"),
        "nodeStatusUpdateFrequency": "2s",  # a lost node is detected in 18 s, as the controller manager waits 12 s
        # The cluster shares the machine's disk: a full disk must not evict pods or remove images.
        "evictionHard": {
            "imagefs.available": "0%",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
        },
        "imageGCHighThresholdPercent": 100,
        "serializeImagePulls": False,
    }

"""A node keeps to itself: two of them run on one machine."""

from testcluster import network
from testcluster.local import NETWORKS, NODES
from testcluster.node import containerd_config


def test_no_two_nodes_share_a_name_an_address_or_a_folder() -> None:
    for what in (
        [node.name for node in NODES],
        [node.socket for node in NODES],
        [node.images for node in NODES],
        [each.address for each in NETWORKS],
        [each.pod_cidr for each in NETWORKS],
        [each.netns for each in NETWORKS],
    ):
        assert len(set(what)) == len(NODES)


def test_link_names_fit_the_kernel() -> None:
    assert all(len(name) <= 15 for name in [network.BRIDGE, *(each.cable for each in NETWORKS)])


def test_every_path_of_containerd_is_the_nodes_own() -> None:
    node = NODES[0]
    config = containerd_config(node.images, node.directory, node.socket, node.directory / "cni")
    paths = [line.split('"')[1] for line in config.splitlines() if '= "/' in line]
    shared = {"/usr/lib/cni"}  # the plugins, which are only read
    assert len(paths) >= 5
    assert all(path in shared or path.startswith((str(node.directory), str(node.images))) for path in paths)

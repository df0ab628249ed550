import random
import socket
from pathlib import Path

import pytest

from driftloop.cli.gating.ports import free_ports


def test_ports_are_different_and_nobody_listens_there() -> None:
    found = free_ports(50)

    assert len(set(found)) == 50
    for port in found:
        with socket.create_server(("", port)):
            pass


def test_no_port_can_be_taken_by_an_outgoing_connection_before_it_is_used() -> None:
    """A proxy once ended at its start, since a neighbour's connection had been given the port that it was to use."""
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())

    assert not set(free_ports(50)) & set(range(first, last + 1))


def test_a_port_that_is_in_use_is_not_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        monkeypatch.setattr(random, "sample", lambda *_: [taken])

        with pytest.raises(OSError, match="no free TCP port"):
            free_ports(1)

"""TCP ports for processes of this machine that are told where to listen."""

import random
import socket
from contextlib import ExitStack

# Below the ports that Linux and other systems give to outgoing connections (32768 and above): one of these would be
# taken now and then by a connection of anybody, between the look and the moment when the process listens.
PORTS = range(20000, 32768)


def free_ports(count: int) -> list[int]:
    """`count` different ports on which nobody listens now, on any interface. Raises OSError if so many are not found
    within 100 tries each.
    """
    with ExitStack() as held:
        return [held.enter_context(_bound()).getsockname()[1] for _ in range(count)]


def _bound() -> socket.socket:
    for port in random.sample(PORTS, 100):
        found = socket.socket()
        try:
            found.bind(("", port))
        except OSError:  # somebody else's
            found.close()
            continue
        return found
    raise OSError(f"no free TCP port found between {PORTS.start} and {PORTS.stop - 1}")

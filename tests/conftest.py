"""How the tests are spread over processes: a file stays together, and the cluster's tests run one after another."""

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

CLUSTER = "tests/cluster/"
LIFECYCLE = f"{CLUSTER}test_lifecycle.py"  # has a second cluster of its own


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Files are the units of work, and the cluster's are one unit: there is one cluster.

    Not `--dist loadgroup`, which pytest-xdist 3.8 does by a suffix of the node's id that pytest 9.2 ignores: the
    cluster's tests ran two at a time and deleted each other's namespaces.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return CLUSTER if file.startswith(CLUSTER) and file != LIFECYCLE else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Called with `-n`, whatever `--dist` says."""
    return FileScheduling(config, log)

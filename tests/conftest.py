"""How the tests are spread over processes: the cluster's run one after another, and all others beside them."""

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

CLUSTER = "tests/cluster/"
LIFECYCLE = f"{CLUSTER}test_lifecycle.py"  # has a second cluster of its own
ORDER = {CLUSTER: 0, LIFECYCLE: 2}

settings.register_profile("busy", deadline=None)  # what an example takes says how busy the machine is, and no more
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The cluster's tests first: they wait for pods, and leave time to the others. The second cluster's last."""
    items.sort(key=lambda item: ORDER.get(_unit(item.nodeid), 1))


def _unit(nodeid: str) -> str:
    """What may not be split: the tests of a file, and all that share the cluster."""
    file = nodeid.partition("::")[0]
    return CLUSTER if file.startswith(CLUSTER) and file != LIFECYCLE else file


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Not `--dist loadgroup`, which pytest-xdist 3.8 does by a suffix of the node's id that pytest 9.2 ignores: the
    cluster's tests ran two at a time and deleted each other's namespaces.
    """

    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Called with `-n`, whatever `--dist` says."""
    return FileScheduling(config, log)

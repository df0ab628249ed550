"""How the tests are spread over processes: the cluster's run one after another, and the pure ones beside them."""

import gc

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

CLUSTER = "tests/cluster/"
LIFECYCLE = f"{CLUSTER}test_lifecycle.py"  # has clusters of its own
FILES = (
    *("testcluster", "interruptions", "operator_faults"),  # what others take for granted, and the training they share
    *("bad_input", "node_loss"),  # one node is enough, while the other is lost; also for the loop, which begins here
    *("serving_faults", "training_faults", "loop"),  # the loop runs beside the others and ends last
)
ORDER = ("tests/control_plane/", *(f"{CLUSTER}test_{name}.py" for name in FILES), LIFECYCLE, "tests/unit/")

gc.disable()  # while torch is imported (see driftloop.podlib.heavy): three seconds of each process's collection
settings.register_profile("busy", deadline=None)  # what an example takes says how busy the machine is, and no more
settings.load_profile("busy")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The faults wait for pods and nodes a good deal, and leave that time to the loop and to the pure tests. They begin
    with a training, which leaves none: beside it run the tests that start clusters of their own and wait for those.

    Beside none of it run those of the API server: its operator, starved, took minutes for what takes it seconds.
    """
    items.sort(key=lambda item: _rank(item.nodeid))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # what is frozen at the end counts as leaked for some libraries, which print a list


def _rank(nodeid: str) -> int:
    return next(rank for rank, start in enumerate((*ORDER, "")) if nodeid.startswith(start))


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

"""Selects and orders the tests, and distributes them over processes: cluster tests run one after another."""

import gc
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from parts import ALL, FUZZ, PARTS, is_chosen, is_property, part_of, runs

CLUSTER = "tests/cluster/"
LIFECYCLE = f"{CLUSTER}test_lifecycle.py"  # creates its own clusters
FILES = (
    *("testcluster", "interruptions", "operator_faults"),  # prerequisites of others, and the training that they share
    *("parallelism", "elastic", "trainings"),  # of `make test-long`: they need both nodes
    *("bad_input", "node_loss"),  # one node is enough while the other is lost, also for the loop, which starts here
    *("serving_faults", "modelcache", "scale_to_zero", "training_faults"),
    "loop",  # runs in parallel with the others and ends last
)
ORDER = ("tests/control_plane/", *(f"{CLUSTER}test_{name}.py" for name in FILES), LIFECYCLE, "tests/unit/")

gc.disable()  # during the import of torch, as in driftloop.podlib.heavy; saves three seconds per process
LEFT_OUT = pytest.StashKey[list[str]]()  # lines of the summary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=[*PARTS, ALL], help="run a part of `make test-long` instead of `make test`")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []
    settings.load_profile("all" if runs(config, FUZZ) else "some")  # before tests are imported, for parts.examples


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Select and sort the tests. The others are counted for the summary."""
    part = config.getoption("part")
    chosen = [item for item in items if is_chosen(item, part)]
    left_out = [item for item in items if not is_chosen(item, part)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen
    _sort(items)
    config.stash[LEFT_OUT] = list(_lines(config, left_out, chosen))
    if hasattr(config, "workeroutput"):  # a worker process of xdist, whose summary is not shown
        config.workeroutput["left_out"] = config.stash[LEFT_OUT]


def pytest_testnodedown(node: WorkerController) -> None:
    """Take the lines of a worker process of xdist. Each worker collects all tests, so any of them will do."""
    lines = getattr(node, "workeroutput", {}).get("left_out")
    node.config.stash[LEFT_OUT] = lines or node.config.stash[LEFT_OUT]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[LEFT_OUT]:
        terminalreporter.section("not in this run")
    for line in config.stash[LEFT_OUT]:
        terminalreporter.line(line)


def _lines(config: pytest.Config, left_out: list[pytest.Item], chosen: list[pytest.Item]) -> Iterator[str]:
    for part, count in Counter(map(part_of, left_out)).items():
        yield f"{count} tests: make test-long PART={part}" if part else f"{count} tests: make test"
    properties = sum(map(is_property, chosen))
    if properties and not runs(config, FUZZ):
        yield f"most examples of {properties} properties: make test-long PART={FUZZ}"


def _sort(items: list[pytest.Item]) -> None:
    """Sort the tests so that long waits overlap with other tests.

    Tests with faults mostly wait for pods and nodes, so the loop and the unit tests run in parallel. The faults start
    with a training that needs all CPUs, so then only the tests that create their own clusters run in parallel. The
    tests with the API server run alone, as its operator took minutes instead of seconds without enough CPU time.
    """
    items.sort(key=lambda item: _rank(item.nodeid))


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # some libraries print frozen objects as leaks at exit (not reported)


def _rank(nodeid: str) -> int:
    return next(rank for rank, start in enumerate((*ORDER, "")) if nodeid.startswith(start))


def _unit(nodeid: str) -> str:
    """The unit of tests that run in one process: a file, or all tests that share the cluster."""
    file = nodeid.partition("::")[0]
    return CLUSTER if file.startswith(CLUSTER) and file != LIFECYCLE else file


class FileScheduling(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Distributes units of tests over processes.

    Not `--dist loadgroup`, which has no effect with pytest 9.2, so that cluster tests ran in parallel and deleted each
    other's namespaces: https://github.com/pytest-dev/pytest-xdist/issues/1386
    """

    def _split_scope(self, nodeid: str) -> str:
        return _unit(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Use FileScheduling with `-n`, whatever the value of `--dist`."""
    return FileScheduling(config, log)

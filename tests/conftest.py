"""Which tests run, and how processes share them: the cluster's run one after another, the pure ones beside them."""

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
LIFECYCLE = f"{CLUSTER}test_lifecycle.py"  # has clusters of its own
FILES = (
    *("testcluster", "interruptions", "operator_faults"),  # what others take for granted, and the training they share
    *("bad_input", "node_loss"),  # one node is enough, while the other is lost; also for the loop, which begins here
    *("serving_faults", "training_faults", "loop"),  # the loop runs beside the others and ends last
)
ORDER = ("tests/control_plane/", *(f"{CLUSTER}test_{name}.py" for name in FILES), LIFECYCLE, "tests/unit/")

gc.disable()  # while torch is imported (see driftloop.podlib.heavy): three seconds of each process's collection
LEFT_OUT = pytest.StashKey[list[str]]()  # lines of the summary


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--part", choices=[*PARTS, ALL], help="run a part of `make test-long` in place of `make test`")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[LEFT_OUT] = []
    settings.load_profile("all" if runs(config, FUZZ) else "some")  # before tests are imported: parts.examples asks


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The chosen tests, in order. What is left out is counted for the summary."""
    part = config.getoption("part")
    chosen = [item for item in items if is_chosen(item, part)]
    left_out = [item for item in items if not is_chosen(item, part)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = chosen
    _sort(items)
    config.stash[LEFT_OUT] = list(_lines(config, left_out, chosen))
    if hasattr(config, "workeroutput"):  # a process of xdist's, whose summary nobody sees
        config.workeroutput["left_out"] = config.stash[LEFT_OUT]


def pytest_testnodedown(node: WorkerController) -> None:
    """Each process of xdist's collects all tests, so any of them knows what is left out."""
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

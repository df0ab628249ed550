"""How the tests are spread over processes: a file stays together, and the cluster's tests run one after another."""

from pathlib import Path

import pytest

CLUSTER = Path(__file__).parent / "cluster"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Group the tests for pytest-xdist's `--dist loadgroup`."""
    for item in items:
        group = "cluster" if item.path.is_relative_to(CLUSTER) else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))

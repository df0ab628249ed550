"""The garbage collector while something large is loaded, and after it."""

import gc
from collections.abc import Iterator

import pytest

from driftloop.podlib.heavy import loading


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.enable()
    gc.unfreeze()


def test_nothing_is_collected_while_loading_and_collection_goes_on_after_it() -> None:
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_loaded_is_left_out_of_later_collections() -> None:
    with loading():
        loaded = [[] for _ in range(1000)]  # type: list[list[int]]
    assert gc.get_freeze_count() >= len(loaded)
    assert not any(found is loaded for found in gc.get_objects())


def test_a_failed_load_leaves_collection_on() -> None:
    with pytest.raises(OSError, match="gone"), loading():
        raise OSError("gone")
    assert gc.isenabled()

"""Waits end."""

import pytest

from testcluster import wait
from testcluster.console import Error


def test_a_wait_returns_what_was_waited_for() -> None:
    answers = iter([None, None, "there"])
    assert wait.until(lambda: next(answers), "the answer", seconds=5, every=0) == "there"


def test_a_wait_that_gets_nothing_says_what_it_waited_for() -> None:
    with pytest.raises(Error, match="the moon"):
        wait.until(lambda: False, "the moon", seconds=0, every=0)

"""What executing writes is tested against a real API server; here is what needs none."""

from typing import Any

from driftloop.controller.core import Adjust
from driftloop.controller.runtime.execute import adjustment

LIVE: Any = {
    "metadata": {"labels": {"role": "stable", "keep": "1"}, "annotations": {"note": "x"}},
    "spec": {"replicas": 2},
}


def test_an_adjustment_holds_what_differs_and_nothing_else() -> None:
    action = Adjust("ns", "d", "uid", 3, {"role": "candidate", "keep": "1"}, {"note": None, "gone": None})
    assert adjustment(action, LIVE) == {
        "metadata": {"labels": {"role": "candidate"}, "annotations": {"note": None}},
        "spec": {"replicas": 3},
    }


def test_what_is_as_wanted_needs_no_patch() -> None:
    assert adjustment(Adjust("ns", "d", "uid", 2, {"role": "stable"}, {"note": "x"}), LIVE) == {}
    assert adjustment(Adjust("ns", "d", "uid"), LIVE) == {}

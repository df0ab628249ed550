import json
from pathlib import Path

import pytest

from driftloop_trainer.train.run import Run, Superseded
from unit.trainer.conftest import RUN, taken_over


def test_a_checkpoint_counts_once_it_is_whole_and_only_the_furthest_stay(volume: Path) -> None:
    run = taken_over("0000-a")
    for step in (1, 2, 3):
        begun = run.begin(step)
        (volume / "runs" / "uid" / begun.uri.rpartition("/")[2]).mkdir(parents=True)
        assert run.last() != begun
        run.complete(begun, keep=2)
        assert run.last() == begun
    assert sorted(p.name for p in (volume / "runs" / "uid").glob("step-*")) == [
        "step-00000002-0000-a",
        "step-00000003-0000-a",
    ]


def test_who_was_superseded_is_told(volume: Path) -> None:
    old = taken_over("0000-a")
    old.check_owner()
    taken_over("0000-b").check_owner()
    with pytest.raises(Superseded, match="another driver"):
        old.check_owner()


def test_who_was_superseded_deletes_nothing_and_lets_nothing_count(volume: Path) -> None:
    old = taken_over("0000-a")
    begun = old.begin(1)
    old.complete(begun, keep=2)
    late = old.begin(2)
    new = taken_over("0000-b")
    with pytest.raises(Superseded):
        old.drop_all_but(0)
    with pytest.raises(Superseded):
        old.complete(late, keep=2)
    assert new.last() == begun


def test_starts_are_counted_and_noted(volume: Path) -> None:
    assert [taken_over("0000-a").record_start(step, 2, 2) for step in (0, 40)] == [0, 1]
    noted = [json.loads(path.read_text())["step"] for path in sorted((volume / "runs" / "uid" / "starts").iterdir())]
    assert noted == [0, 40]


def test_a_new_run_has_no_checkpoint(volume: Path) -> None:
    assert Run(RUN, "0000-a").last() is None

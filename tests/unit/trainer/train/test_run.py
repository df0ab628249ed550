import json
import pickle
import time
from pathlib import Path

import pytest

from driftloop_trainer.train.run import Position, Run, Superseded
from unit.trainer.conftest import RUN, taken_over


def test_a_checkpoint_counts_once_it_is_whole_and_only_the_furthest_stay(volume: Path) -> None:
    run = taken_over("0000-a")
    for step in (1, 2, 3):
        begun = run.begin(step)
        (volume / "runs" / "uid" / begun.uri.rpartition("/")[2]).mkdir(parents=True)
        assert begun not in run.complete_checkpoints()
        run.complete(begun, keep=2)
        assert run.complete_checkpoints()[0] == begun
    assert sorted(p.name for p in (volume / "runs" / "uid").glob("step-*")) == [
        "step-00000002-0000-a",
        "step-00000003-0000-a",
    ]


def test_a_checkpoint_knows_when_it_was_complete_and_how_many_steps_were_skipped(volume: Path) -> None:
    run = taken_over("0000-a")
    before = time.time()
    complete = run.complete(run.begin(7, skipped=2), keep=2)
    (found,) = taken_over("0001-b").complete_checkpoints()
    assert found.position == Position(7, 2)
    assert before <= found.position.saved == complete.saved <= time.time()


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
        old.clear()
    with pytest.raises(Superseded):
        old.complete(late, keep=2)
    assert new.complete_checkpoints() == [begun]


def test_starts_are_counted_and_noted(volume: Path) -> None:
    assert [taken_over("0000-a").record_start(step, 2, 2) for step in (0, 40)] == [0, 1]
    noted = [json.loads(path.read_text())["step"] for path in sorted((volume / "runs" / "uid" / "starts").iterdir())]
    assert noted == [0, 40]


def test_a_new_run_has_no_checkpoint(volume: Path) -> None:
    assert Run(RUN, "0000-a").complete_checkpoints() == []


def begun(run: Run, step: int, volume: Path) -> Path:
    """A checkpoint whose writer was killed."""
    folder = volume / "runs" / "uid" / run.begin(step).uri.rpartition("/")[2]
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_bytes(b"half")
    return folder


def test_a_driver_that_takes_over_deletes_what_earlier_drivers_left_incomplete(volume: Path) -> None:
    old = taken_over("0000-a")
    complete = old.begin(1)
    old.complete(complete, keep=2)
    half = begun(old, 2, volume)
    new = taken_over("0001-b")
    assert not half.exists()
    assert new.complete_checkpoints() == [complete]


def test_a_superseded_driver_does_not_delete_what_its_successor_writes(volume: Path) -> None:
    old, new = taken_over("0000-a"), taken_over("0001-b")
    half = begun(new, 2, volume)
    with pytest.raises(Superseded):
        old.clear()
    assert half.exists()


def test_nothing_is_left_after_the_end_not_even_incomplete_checkpoints(volume: Path) -> None:
    old = taken_over("0000-a")
    new = taken_over("0001-b")
    new.complete(new.begin(4), keep=2)
    halves = [begun(new, 6, volume), begun(old, 5, volume)]  # the old driver wrote on after it was superseded
    new.clear()
    assert not any(half.exists() for half in halves)
    assert new.complete_checkpoints() == []


def test_superseded_survives_the_way_from_a_worker_to_the_driver() -> None:
    failure = pickle.loads(pickle.dumps(Superseded(RUN)))
    assert (failure.exit_code, str(failure)) == (75, str(Superseded(RUN)))


def test_the_first_reference_is_kept_for_all_drivers_until_the_run_is_over(volume: Path) -> None:
    old = taken_over("0000-a")
    assert old.reference() is None
    assert old.keep_reference([0.1, -2.5]) == [0.1, -2.5]
    new = taken_over("0001-b")
    assert new.keep_reference([9.0, 9.0]) == [0.1, -2.5] == new.reference()
    new.clear()
    assert new.reference() is None
    new.clear()

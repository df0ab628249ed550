import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from driftloop_trainer.train.tracking.tensorboard import TensorBoard
from driftloop_trainer.train.tracking.tracker import Row, Training
from testcluster.s3 import server
from unit.storage_secret import credentials_of

URI = "pvc://claim/runs/uid/tensorboard"
TRAINING = Training("uid", "job", "desk", {"learningRate": "2e-05"})


def events(file: Path) -> list[Any]:
    """The events of a file: each has its length, a checksum, itself and another checksum."""
    content, place, found = file.read_bytes(), 0, []
    while place < len(content):
        (length,) = struct.unpack_from("<Q", content, place)
        found.append(Event.FromString(content[place + 12 : place + 12 + length]))
        place += 16 + length
    return found


def scalars(file: Path) -> list[tuple[int, str, float]]:
    values = [(event.step, value) for event in events(file) for value in event.summary.value]
    return [(step, value.tag, round(value.simple_value, 4)) for step, value in values if value.HasField("simple_value")]


def rows(first: int, last: int) -> list[Row]:
    return [Row(step, 1000.0 + step, {"loss": step / 2, "learning_rate": 0.25}) for step in range(first, last + 1)]


def reported(uri: str, scratch: Path, first: int, last: int) -> None:
    """What one start of the training reports."""
    tracker = TensorBoard(TRAINING, uri, scratch, first)
    tracker.open()
    tracker.write(rows(first, last))
    tracker.close("FINISHED")


def test_each_value_of_a_step_is_a_scalar_at_its_time(volume: Path, tmp_path: Path) -> None:
    reported(URI, tmp_path, 1, 2)
    (file,) = (volume / "runs" / "uid" / "tensorboard").iterdir()
    expected = [(1, "loss", 0.5), (1, "learning_rate", 0.25), (2, "loss", 1.0), (2, "learning_rate", 0.25)]
    assert scalars(file) == expected
    times = [event.wall_time for event in events(file) if event.summary.value and event.step == 2]
    assert times == [1002.0, 1002.0]


def test_a_restart_replaces_the_steps_after_its_checkpoint(volume: Path, tmp_path: Path) -> None:
    reported(URI, tmp_path, 1, 5)
    reported(URI, tmp_path, 5, 6)
    files = sorted((volume / "runs" / "uid" / "tensorboard").iterdir())
    assert len(files) == 2
    starts = [event.step for file in files for event in events(file) if event.session_log.status == SessionLog.START]
    assert 5 in starts


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    with server(tmp_path / "s3") as found, credentials_of(found, monkeypatch):
        yield found.bucket("team")


def test_in_a_bucket_the_file_is_there_when_the_training_has_ended(bucket: Path, tmp_path: Path) -> None:
    reported("s3://team/runs/uid/tensorboard", tmp_path / "events", 1, 2)
    (file,) = (bucket / "runs" / "uid" / "tensorboard").iterdir()
    assert len(scalars(file)) == 4

from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2
from wandb.sdk.internal.datastore import DataStore

from driftloop_trainer.train.tracking.tracker import Row, Training
from driftloop_trainer.train.tracking.wandb import WandB

URI = "pvc://claim/runs/uid/wandb"


def records(file: Path) -> list[Any]:
    store: Any = DataStore()
    record: Any = wandb_internal_pb2
    store.open_for_scan(str(file))
    found = []
    while (data := store.scan_data()) is not None:
        found.append(record.Record.FromString(data))
    return found


def history(file: Path) -> list[dict[str, str]]:
    items = [record.history.item for record in records(file) if record.WhichOneof("record_type") == "history"]
    return [{item.key or item.nested_key[0]: item.value_json for item in row} for row in items]


def test_without_a_key_a_run_lies_in_storage_for_wandb_sync(volume: Path, tmp_path: Path) -> None:
    training = Training("uid-1", "job", "desk", {"learningRate": "2e-05"}, {"driftloop.family": "desk"})
    tracker = WandB(training, URI, tmp_path, {})
    tracker.open()
    tracker.write([Row(1, 1000.0, {"loss": 2.5}), Row(2, 1001.0, {"loss": 1.5})])
    tracker.close("FINISHED")
    (file,) = (volume / "runs" / "uid" / "wandb").rglob("run-uid-1.wandb")
    assert [(row["_step"], row["loss"]) for row in history(file)] == [("1", "2.5"), ("2", "1.5")]
    (run,) = (record.run for record in records(file) if record.WhichOneof("record_type") == "run")
    assert (run.project, run.display_name, run.run_id) == ("desk", "job", "uid-1")

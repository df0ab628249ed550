import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from driftloop_trainer import flatrows
from driftloop_trainer.dataset import FILE, IGNORED, write_dataset
from driftloop_trainer.flatrows import FlatRows, flat_bytes, flatten


@pytest.mark.parametrize("good", [None, [True, False, True]], ids=["unlabelled", "labelled"])
def test_the_room_that_is_needed_is_known_before(tmp_path: Path, good: list[bool] | None) -> None:
    ids = [[1, 2, 3], [4], [5, 6]]
    write_dataset(tmp_path, ids, ids, [[2, 1], [1], [2]], good=good)
    flat = tmp_path / "flat"
    flat.mkdir()
    flatten(tmp_path / FILE, flat)
    written = sum(path.stat().st_size for path in flat.iterdir())
    with pq.ParquetFile(tmp_path / FILE) as file:
        assert flat_bytes(file) == written + (0 if good else len(ids))


def test_rows_that_are_decoded_in_several_batches_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flatrows, "_BATCH_TOKENS", 6)
    ids = [list(range(1, 2 + index % 3)) for index in range(11)]
    labels = [[IGNORED, *row[1:]] for row in ids]
    write_dataset(tmp_path, ids, labels, [[1] * len(row) for row in ids])
    flat = tmp_path / "flat"
    flat.mkdir()
    flatten(tmp_path / FILE, flat)
    rows = FlatRows.open(flat)
    assert rows.ids.tolist() == [token for row in ids for token in row]
    assert rows.offsets.tolist() == [0, *np.cumsum([len(row) for row in ids])]
    assert rows.segment_offsets.tolist() == rows.offsets.tolist()
    assert rows.trained.tolist() == [len(row) - 1 for row in ids]


def test_the_rows_can_not_be_changed(tmp_path: Path) -> None:
    """All workers of a pod have the same ones."""
    write_dataset(tmp_path, [[1, 2]], [[1, 2]], [[2]])
    flat = tmp_path / "flat"
    flat.mkdir()
    flatten(tmp_path / FILE, flat)
    with pytest.raises(ValueError, match=re.escape("read-only")):
        FlatRows.open(flat).ids[0] = 7

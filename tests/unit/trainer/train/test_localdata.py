"""A pod has one copy of the prepared rows on its disk, whatever number of its processes asks, and however one ends."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError
from driftloop.podlib.storage import StorageError
from driftloop_trainer.dataset import FILE, IGNORED, VALIDATION, write_dataset
from driftloop_trainer.flatrows import flatten
from driftloop_trainer.train import localdata
from driftloop_trainer.train.localdata import local_data

IDS = [[5, 6, 7], [8, 9]]
LABELS = [[IGNORED, 6, 7], [IGNORED, 9]]
MOUNTED = "pvc://claim/prepared"


def prepared(folder: Path) -> str:
    """Leaves a prepared folder. Returns its digest."""
    folder.mkdir()
    write_dataset(folder, IDS, LABELS, [[3], [2]], [["line 1"], ["line 2"]])
    write_dataset(folder, IDS[1:], LABELS[1:], [[2]], name=VALIDATION)
    (folder / "turn_ends.json").write_text("[7]")
    manifest = Manifest.of(folder)
    manifest.write(folder)
    return manifest.digest


@pytest.fixture
def disk(volume: Path) -> Path:
    return Path(os.environ["DRIFTLOOP_DISK"])


def bucket(volume: Path) -> str:
    """What is in this folder, by a URI that is not mounted."""
    return f"file://{volume}/prepared"


def test_a_mounted_folder_stays_where_it_is_and_its_rows_are_on_the_disk(volume: Path, disk: Path) -> None:
    found = local_data(MOUNTED, prepared(volume / "prepared"))
    assert found.folder == volume / "prepared"
    assert [path.name for path in disk.iterdir()] == [found.flat.name]
    assert sorted(path.name for path in found.flat.iterdir()) == [FILE, VALIDATION]
    data, aside = found.dataset(FILE), found.dataset(VALIDATION)
    assert [data.ids(index).tolist() for index in range(2)] == IDS
    assert [data.labels(index).tolist() for index in range(2)] == LABELS
    assert data.rows([1, 0]) == ["line 2", "line 1"]
    assert [aside.ids(index).tolist() for index in range(len(aside))] == IDS[1:]


def test_from_a_bucket_the_first_process_copies_and_the_others_need_no_bucket(volume: Path, disk: Path) -> None:
    digest = prepared(volume / "prepared")
    first = local_data(bucket(volume), digest)
    shutil.rmtree(volume / "prepared")
    second = local_data(bucket(volume), digest)
    assert first == second
    assert first.folder.is_relative_to(disk)
    assert (second.folder / "turn_ends.json").read_text() == "[7]"
    assert second.dataset(FILE).ids(0).tolist() == IDS[0]


def test_a_worker_waits_for_one_that_still_makes_the_rows(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker of a new attempt deleted the files of one that had not ended yet, and both failed."""
    digest, made = prepared(volume / "prepared"), list[Path]()

    def slowly(parquet: Path, folder: Path) -> None:
        made.append(folder)
        time.sleep(0.5)
        flatten(parquet, folder)

    monkeypatch.setattr(localdata, "flatten", slowly)
    with ThreadPoolExecutor(3) as pool:
        first, *others = pool.map(lambda _: local_data(bucket(volume), digest), range(3))
    assert others == [first, first]
    assert len(made) == 2  # of each file


def test_other_rows_have_another_place(volume: Path, disk: Path) -> None:
    digest = prepared(volume / "prepared")
    shutil.copytree(volume / "prepared", volume / "other")
    (volume / "other" / "turn_ends.json").write_text("[8]")
    manifest = Manifest.of(volume / "other")
    manifest.write(volume / "other")
    assert local_data(MOUNTED, digest).flat != local_data("pvc://claim/other", manifest.digest).flat


@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "bucket"])
def test_changed_rows_are_refused_and_nothing_of_them_stays(volume: Path, disk: Path, mounted: bool) -> None:
    digest = prepared(volume / "prepared")
    (volume / "prepared" / FILE).write_bytes(b"other")
    with pytest.raises(ManifestError, match=f"content of {FILE} does not match"):
        local_data(MOUNTED if mounted else bucket(volume), digest)
    assert list(disk.iterdir()) == []


def test_a_missing_folder_is_named(volume: Path, disk: Path) -> None:
    with pytest.raises(StorageError, match=f"file://{volume}/prepared: no such folder"):
        local_data(bucket(volume), "sha256:" + "0" * 64)


def test_what_a_process_left_that_died_is_deleted_and_made_again(volume: Path, disk: Path) -> None:
    digest = prepared(volume / "prepared")

    def die() -> None:
        vars(localdata)["flatten"] = lambda *_: os._exit(9)
        local_data(bucket(volume), digest)

    copier = get_context("fork").Process(target=die)
    copier.start()
    copier.join(60)
    assert copier.exitcode == 9
    (left,) = disk.iterdir()
    assert left.name.startswith(".prepared-")
    found = local_data(bucket(volume), digest)
    assert found.dataset(FILE).ids(0).tolist() == IDS[0]
    assert list(disk.iterdir()) == [found.flat]


@pytest.mark.parametrize("content", [None, "{"], ids=["missing", "cut"])
def test_a_copy_without_a_manifest_that_can_be_read_is_refused(volume: Path, disk: Path, content: str | None) -> None:
    digest = prepared(volume / "prepared")
    (volume / "prepared" / MANIFEST).unlink()
    if content is not None:
        (volume / "prepared" / MANIFEST).write_text(content)
    with pytest.raises(ManifestError, match=f"no readable {MANIFEST}"):
        local_data(bucket(volume), digest)

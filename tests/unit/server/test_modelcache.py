import logging
import os
import shutil
import time
from pathlib import Path

import pytest

from driftloop.contract.manifest import Manifest
from driftloop_server.modelcache import ModelCache

URI, SIZE = "pvc://copies/models", 1000


@pytest.fixture
def claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path / "volumes"))
    return tmp_path / "volumes/copies/models"


def model(folder: Path, letter: str) -> Manifest:
    """A folder of SIZE bytes."""
    (folder / "part").mkdir(parents=True)
    (folder / "config.json").write_text(letter * 100)
    (folder / "part/weights.safetensors").write_text(letter * (SIZE - 100))
    manifest = Manifest.of(folder)
    manifest.write(folder)
    return manifest


def kept(cache: ModelCache, tmp_path: Path, letter: str) -> Manifest:
    manifest = model(tmp_path / letter, letter)
    cache.keep(manifest, tmp_path / letter)
    return manifest


def names(claim: Path) -> list[str]:
    return sorted(path.name for path in claim.iterdir())


def copy_of(claim: Path, manifest: Manifest) -> Path:
    return claim / manifest.digest.replace(":", "-")


def test_what_one_pod_keeps_the_next_one_finds(claim: Path, tmp_path: Path) -> None:
    cache = ModelCache(URI, 3 * SIZE)
    assert cache.bring(f"sha256:{'0' * 64}", tmp_path / "found") is None
    manifest = kept(cache, tmp_path, "a")
    assert ModelCache(URI, 3 * SIZE).bring(manifest.digest, tmp_path / "found") == manifest
    assert Manifest.of(tmp_path / "found").digest == manifest.digest
    assert names(claim) == [copy_of(claim, manifest).name]


def test_a_damaged_copy_is_not_used_and_goes(claim: Path, tmp_path: Path) -> None:
    cache = ModelCache(URI, 3 * SIZE)
    manifest = kept(cache, tmp_path, "a")
    (copy_of(claim, manifest) / "part/weights.safetensors").write_text("b" * (SIZE - 100))
    assert cache.bring(manifest.digest, tmp_path / "found") is None
    assert names(claim) == []


def test_a_copy_under_another_models_digest_is_not_used(claim: Path, tmp_path: Path) -> None:
    cache = ModelCache(URI, 3 * SIZE)
    wanted, other = kept(cache, tmp_path, "a"), kept(cache, tmp_path, "b")
    shutil.rmtree(copy_of(claim, wanted))
    copy_of(claim, other).rename(copy_of(claim, wanted))
    assert cache.bring(wanted.digest, tmp_path / "found") is None


def test_the_copies_that_were_not_used_for_the_longest_time_make_room(claim: Path, tmp_path: Path) -> None:
    cache = ModelCache(URI, 3 * SIZE)  # two copies, which have manifests too
    first, second = kept(cache, tmp_path, "a"), kept(cache, tmp_path, "b")
    for manifest, age in ((first, 200), (second, 100)):
        os.utime(copy_of(claim, manifest), (time.time() - age,) * 2)
    assert cache.bring(first.digest, tmp_path / "found") is not None
    third = kept(cache, tmp_path, "c")
    assert names(claim) == sorted(copy_of(claim, manifest).name for manifest in (first, third))


def test_a_model_that_is_too_large_deletes_no_copy(
    claim: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = kept(ModelCache(URI, SIZE), tmp_path, "a")
    with caplog.at_level(logging.WARNING):
        kept(ModelCache(URI, SIZE - 1), tmp_path, "b")
    assert "modelCache.maxSize" in caplog.text
    assert names(claim) == [copy_of(claim, manifest).name]


def test_what_killed_pods_left_is_deleted_after_a_day(claim: Path, tmp_path: Path) -> None:
    for name, hours in ((".partial-old", 25), (".partial-new", 1)):
        (claim / name).mkdir(parents=True)
        os.utime(claim / name, (time.time() - hours * 3600,) * 2)
    manifest = kept(ModelCache(URI, SIZE), tmp_path, "a")
    assert names(claim) == sorted([".partial-new", copy_of(claim, manifest).name])


def unfinished(claim: Path, number: int) -> None:
    """So many copies that other pods make, or left when they were killed."""
    for name in range(number):
        (claim / f".partial-{name}").mkdir()
        (claim / f".partial-{name}/weights").write_text("x" * SIZE)


def test_unfinished_copies_take_room(claim: Path, tmp_path: Path) -> None:
    cache = ModelCache(URI, 4 * SIZE)
    first = kept(cache, tmp_path, "a")
    unfinished(claim, 2)
    second = kept(cache, tmp_path, "b")
    assert (copy_of(claim, first).exists(), copy_of(claim, second).exists()) == (False, True)


def test_no_copy_is_added_to_unfinished_ones_that_leave_no_room(
    claim: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each pod that is killed while it copies leaves one: a few restarts would fill the node's disk."""
    cache = ModelCache(URI, 4 * SIZE)
    kept(cache, tmp_path, "a")
    unfinished(claim, 4)
    before = names(claim)
    kept(cache, tmp_path, "b")
    assert names(claim) == before
    assert "unfinished ones" in caplog.text


def test_a_claim_that_cannot_be_written_costs_only_the_copy(
    claim: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    claim.parent.mkdir(parents=True)
    claim.write_text("a file in the place of the folder")
    cache = ModelCache(URI, SIZE)
    manifest = kept(cache, tmp_path, "a")
    assert "no copy is kept" in caplog.text
    assert cache.bring(manifest.digest, tmp_path / "found") is None

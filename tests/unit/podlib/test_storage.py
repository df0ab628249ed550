import errno
import hashlib
from pathlib import Path

import pytest

from driftloop.contract.manifest import MANIFEST, ManifestEntry, ManifestError
from driftloop.contract.names import VOLUMES_ENV
from driftloop.podlib import storage


@pytest.fixture(autouse=True)
def volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "volumes"
    (root / "claim").mkdir(parents=True)
    monkeypatch.setenv(VOLUMES_ENV, str(root))
    return root


def folder_with(tmp_path: Path, text: str) -> Path:
    folder = tmp_path / "built"
    folder.mkdir(exist_ok=True)
    (folder / "model.txt").write_text(text)
    return folder


def test_what_was_published_is_fetched_and_verified(tmp_path: Path) -> None:
    digest = storage.publish(folder_with(tmp_path, "weights"), "pvc://claim/models/a").digest
    storage.fetch_folder("pvc://claim/models/a", tmp_path / "copy", digest)
    assert (tmp_path / "copy" / "model.txt").read_text() == "weights"


def test_publishing_again_replaces_the_whole_folder(tmp_path: Path, volumes: Path) -> None:
    storage.publish(folder_with(tmp_path, "old"), "pvc://claim/a")
    (volumes / "claim" / "a" / "stray").write_text("left behind")
    storage.publish(folder_with(tmp_path, "new"), "pvc://claim/a")
    assert sorted(path.name for path in (volumes / "claim" / "a").iterdir()) == [MANIFEST, "model.txt"]


def test_a_changed_byte_is_refused(tmp_path: Path, volumes: Path) -> None:
    digest = storage.publish(folder_with(tmp_path, "weights"), "pvc://claim/a").digest
    (volumes / "claim" / "a" / "model.txt").write_text("Weights")
    with pytest.raises(ManifestError, match=r"model\.txt"):
        storage.fetch_folder("pvc://claim/a", tmp_path / "copy", digest)


@pytest.mark.parametrize("uri", ["pvc://claim/plain", "memory://bucket/{}"])
def test_the_manifest_of_a_folder_tells_the_same_wherever_it_is(tmp_path: Path, volumes: Path, uri: str) -> None:
    place = uri.format(tmp_path.name)
    folder = folder_with(tmp_path, "weights")
    (folder / "part").mkdir()
    (folder / "part" / "more.txt").write_text("more")
    digest = storage.publish(folder, place).digest
    storage.write_text(f"{place}/.cache/left", "hidden")
    assert storage.manifest_of(place).digest == digest


def test_a_folder_of_more_files_than_a_model_has_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "MAX_FILES", 0)
    storage.publish(folder_with(tmp_path, "weights"), "pvc://claim/a")
    with pytest.raises(storage.StorageError, match="has 1 files, more than 0: give the folder of one model"):
        storage.manifest_of("pvc://claim/a")


def test_a_folder_without_manifest_is_taken_only_where_no_digest_is_asked_for(tmp_path: Path, volumes: Path) -> None:
    (volumes / "claim" / "plain").mkdir()
    (volumes / "claim" / "plain" / "x").write_text("x")
    assert [f.path for f in storage.fetch_folder("pvc://claim/plain", tmp_path / "copy").files] == ["x"]
    with pytest.raises(ManifestError):
        storage.fetch_folder("pvc://claim/plain", tmp_path / "copy2", "sha256:" + "0" * 64)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(storage.StorageError, match="pvc://claim/none: no such folder"):
        storage.fetch_folder("pvc://claim/none", tmp_path / "copy")
    with pytest.raises(storage.StorageError, match=r"pvc://claim/none\.csv: no such file"):
        storage.fetch_file("pvc://claim/none.csv", tmp_path)


@pytest.mark.parametrize("uri", ["pvc://", "pvc://claim/../other", "pvc://./x"])
def test_a_uri_stays_in_its_claim(uri: str) -> None:
    with pytest.raises(storage.StorageError):
        storage.local_path(uri)


def test_another_scheme_goes_through_fsspec(tmp_path: Path) -> None:
    uri = f"memory://bucket/{tmp_path.name}"
    digest = storage.publish(folder_with(tmp_path, "weights"), uri).digest
    assert storage.exists(f"{uri}/{MANIFEST}")
    storage.fetch_folder(uri, tmp_path / "copy", digest)
    assert (tmp_path / "copy" / "model.txt").read_text() == "weights"


def test_a_copy_has_the_content_and_not_the_modes(tmp_path: Path) -> None:
    """A pod may not change the root of a volume, which belongs to root: `fetch` failed on a real node by trying."""
    storage.publish(folder_with(tmp_path, "weights"), "pvc://claim/a")
    folder = storage.local_path("pvc://claim/a")
    assert folder is not None
    folder.chmod(0o500)
    (folder / "model.txt").chmod(0o400)
    copy = tmp_path / "copy"
    storage.fetch_folder("pvc://claim/a", copy)
    assert copy.stat().st_mode & 0o200
    assert (copy / "model.txt").stat().st_mode & 0o200


def test_of_several_writers_of_a_file_the_first_one_wins() -> None:
    for uri in ("pvc://claim/sub/result", "memory://bucket/result"):
        assert [storage.create_text(uri, text) for text in ("one", "two")] == [True, False]
        assert storage.read_text(uri) == "one"


def test_the_first_one_wins_where_a_file_system_has_no_links_too(
    monkeypatch: pytest.MonkeyPatch, volumes: Path
) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", link)
    assert [storage.create_text("pvc://claim/result", text) for text in ("one", "two")] == [True, False]
    assert storage.read_text("pvc://claim/result") == "one"
    assert [path.name for path in (volumes / "claim").iterdir()] == ["result"]


REMOTE = ["pvc://claim/out", "memory://{}/out"]


@pytest.fixture(params=REMOTE, ids=["mounted", "remote"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder's URI, mounted or not."""
    return str(request.param).format(tmp_path.name)


def test_several_writers_make_a_folder_of_which_the_manifest_comes_last(out: str, tmp_path: Path) -> None:
    with storage.new_file(f"{out}/weights.bin", tmp_path) as path:
        path.write_bytes(b"0123456789")
        assert not storage.exists(f"{out}/weights.bin")
        entry = ManifestEntry.of(path, "weights.bin")
    assert storage.exists(f"{out}/weights.bin")
    assert not storage.exists(f"{out}/{MANIFEST}")
    digest = storage.complete(folder_with(tmp_path, "config"), out, [entry]).digest
    copied = storage.fetch_folder(out, tmp_path / "copy", digest)
    assert [file.path for file in copied.files] == ["model.txt", "weights.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["built", "copy", "volumes"]  # nothing is left behind


def test_a_writer_that_fails_leaves_nothing(out: str, tmp_path: Path, volumes: Path) -> None:
    def fail() -> None:
        with storage.new_file(f"{out}/weights.bin", tmp_path) as path:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert not storage.exists(f"{out}/weights.bin")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_part_of_a_file_is_read_and_one_that_is_not_there_is_an_error(out: str, tmp_path: Path) -> None:
    with storage.new_file(f"{out}/x", tmp_path) as path:
        path.write_bytes(b"0123456789")
    assert storage.read_range(f"{out}/x", 2, 5) == b"234"
    assert storage.read_range(f"{out}/x", 0, 0) == b""
    assert storage.sha256(f"{out}/x") == hashlib.sha256(b"0123456789").hexdigest()
    with pytest.raises(storage.StorageError, match="ends at byte 10, expected 12"):
        storage.read_range(f"{out}/x", 8, 12)
    for read in (lambda: storage.read_range(f"{out}/none", 0, 1), lambda: storage.sha256(f"{out}/none")):
        with pytest.raises(storage.StorageError, match="/out/none"):
            read()


def test_files_that_are_not_wanted_are_neither_copied_nor_verified(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, "config")
    (folder / "part").mkdir()
    for name in ("model.safetensors", "part/model.safetensors", "part/kept.txt"):
        (folder / name).write_text(name)
    uri = f"memory://{tmp_path.name}/model"
    digest = storage.publish(folder, uri).digest
    manifest = storage.fetch_folder(uri, tmp_path / "copy", digest, skip={".safetensors"})
    copied = sorted(path.name for path in (tmp_path / "copy").rglob("*") if path.is_file())
    assert copied == ["kept.txt", MANIFEST, "model.txt"]
    assert len(manifest.files) == 4

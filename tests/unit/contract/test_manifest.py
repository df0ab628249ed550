from pathlib import Path

import pytest

from driftloop.contract.manifest import MANIFEST, Manifest, ManifestError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.txt").write_text("one")
    (tmp_path / "two.bin").write_bytes(b"\0" * 3_000_000)
    Manifest.of(tmp_path).write(tmp_path)
    return tmp_path


def test_a_written_manifest_reads_back_and_verifies(folder: Path) -> None:
    manifest = Manifest.read(folder)
    assert [entry.path for entry in manifest.files] == ["a/one.txt", "two.bin"]
    manifest.verify(folder, Manifest.of(folder).digest)


def test_the_digest_covers_content_and_paths_but_not_hidden_files(folder: Path) -> None:
    before = Manifest.of(folder).digest
    (folder / ".cache").write_text("x")
    assert Manifest.of(folder).digest == before
    (folder / "two.bin").rename(folder / "three.bin")
    assert Manifest.of(folder).digest != before


@pytest.mark.parametrize("content", [b"One", b"ones", b""])
def test_a_changed_file_is_named(folder: Path, content: bytes) -> None:
    (folder / "a" / "one.txt").write_bytes(content)
    with pytest.raises(ManifestError, match=r"a/one\.txt"):
        Manifest.read(folder).verify(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "two.bin").unlink()
    with pytest.raises(ManifestError, match=r"two\.bin is missing"):
        Manifest.read(folder).verify(folder)


def test_another_digest_than_the_one_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(ManifestError, match="expected sha256:00"):
        Manifest.read(folder).verify(folder, "sha256:" + "0" * 64)


@pytest.mark.parametrize("text", ["", "{}", '{"files": [{"path": "../x", "size": 1, "sha256": "y"}]}'])
def test_an_unreadable_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ManifestError, match="no readable"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("path", ["/etc/passwd", "../up", "a/../../up"])
def test_a_manifest_cannot_point_out_of_its_folder(tmp_path: Path, path: str) -> None:
    entry = f'{{"path": "{path}", "size": 1, "sha256": "{"0" * 64}"}}'
    (tmp_path / MANIFEST).write_text(f'{{"files": [{entry}]}}')
    with pytest.raises(ManifestError, match="no readable"):
        Manifest.read(tmp_path)

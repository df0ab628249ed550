from pathlib import Path

from testcluster.binaries import fingerprint


def test_a_build_is_made_anew_for_other_versions_and_for_other_source(tmp_path: Path) -> None:
    (tmp_path / "go.mod").write_text("module one")
    (tmp_path / "go.sum").write_text("")
    (tmp_path / "program").mkdir()
    source = tmp_path / "program" / "main.go"
    source.write_text("package main")
    first = fingerprint(tmp_path)
    assert fingerprint(tmp_path) == first
    source.write_text("package main // changed")
    second = fingerprint(tmp_path)
    assert second != first
    (tmp_path / "go.mod").write_text("module two")
    assert fingerprint(tmp_path) not in {first, second}

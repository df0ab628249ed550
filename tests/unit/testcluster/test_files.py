"""Files that others read while they are replaced."""

import stat
from pathlib import Path

from testcluster.files import replace_text


def test_who_reads_a_file_while_it_is_replaced_finds_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    replace_text(path, "first")
    with path.open() as reader:
        replace_text(path, "second")
        assert reader.read() == "first"
    assert path.read_text() == "second"
    assert [entry.name for entry in tmp_path.iterdir()] == ["kubeconfig"]


def test_a_replaced_file_is_for_its_owner_alone_and_its_folder_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "kubeconfig"
    replace_text(path, "secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

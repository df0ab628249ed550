"""What decides whether an image is built again, and what a build is told of this machine."""

from pathlib import Path

import pytest

from testcluster import images
from testcluster.paths import REPOSITORY

ARGUMENTS = {"SLIM": "1", "BASE_IMAGE": "base"}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "operator" / "driftloop").mkdir(parents=True)
    (tmp_path / "operator" / "Dockerfile").write_text("FROM base\nCOPY pins.txt /\nCOPY operator/driftloop /app\n")
    (tmp_path / "operator" / "driftloop" / "a.py").write_text("a = 1\n")
    (tmp_path / "pins.txt").write_text("x==1\n")
    return tmp_path


@pytest.mark.parametrize(
    "changed", ["pins.txt", "operator/Dockerfile", "operator/driftloop/a.py", "operator/driftloop/b"]
)
def test_a_change_of_any_copied_file_gives_the_image_another_name(checkout: Path, changed: str) -> None:
    before = images.reference("operator", ARGUMENTS, checkout)
    with (checkout / changed).open("a") as file:
        file.write("# changed\n")
    assert images.reference("operator", ARGUMENTS, checkout) != before


def test_another_build_argument_gives_the_image_another_name(checkout: Path) -> None:
    other = {**ARGUMENTS, "SLIM": "0"}
    assert images.reference("operator", ARGUMENTS, checkout) != images.reference("operator", other, checkout)


def test_files_that_are_not_copied_leave_the_name_as_it_is(checkout: Path) -> None:
    before = images.reference("operator", ARGUMENTS, checkout)
    (checkout / "README.md").write_text("new\n")
    (checkout / "operator" / "driftloop" / "__pycache__").mkdir()
    (checkout / "operator" / "driftloop" / "__pycache__" / "a.pyc").write_bytes(b"\0")
    assert images.reference("operator", ARGUMENTS, checkout) == before


def test_the_real_dockerfiles_copy_only_what_exists() -> None:
    # What `monitoring` copies is put there when it is built.
    for name in ("operator", "trainer", "server", "vllm", "entrypoint"):
        assert images.reference(name, ARGUMENTS).startswith(f"localhost/driftloop-{name}:dev-")


def test_an_image_follows_the_one_that_it_is_built_on_and_changes_with_it() -> None:
    assert images.in_order(["entrypoint"]) == ["trainer", "entrypoint"]
    assert images.in_order(["trainer", "entrypoint", "server"]) == ["trainer", "entrypoint", "server"]
    names = [
        images.reference("entrypoint", images.arguments_of("entrypoint", common))
        for common in (ARGUMENTS, ARGUMENTS | {"SLIM": "0"})
    ]
    assert names[0] != names[1]


def test_trainer_and_server_share_their_large_layers() -> None:
    shared = [
        (REPOSITORY / images.DOCKERFILES[name]).read_text().partition("FROM ")[2].partition("# --- End")[0]
        for name in ("trainer", "server")
    ]
    lines = [[line for line in each.splitlines() if not line.startswith("#")] for each in shared]
    assert lines[0] == lines[1]
    assert any("torch" in line for line in lines[0])

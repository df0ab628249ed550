"""Storage against a real S3 server: what is written is read, and what goes wrong says whether to try again."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from driftloop.contract.manifest import MANIFEST, ManifestError
from driftloop.podlib import storage
from testcluster.s3 import Server, server
from unit.storage_secret import credentials_of


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("s3")) as found:
        found.bucket("models")
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "sub").mkdir(parents=True)
    (tmp_path / "model" / "weights").write_text("weights")
    (tmp_path / "model" / "sub" / "config.json").write_text("{}")
    return tmp_path / "model"


@pytest.fixture(autouse=True)
def credentials(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with credentials_of(s3, monkeypatch):
        yield


def another_pod() -> Any:
    """A client with caches of its own."""
    return fsspec.filesystem("s3", skip_instance_cache=True)


def test_a_folder_comes_back_and_a_changed_byte_is_refused(folder: Path, tmp_path: Path) -> None:
    digest = storage.publish(folder, "s3://models/desk/v1").digest
    storage.fetch_folder("s3://models/desk/v1", tmp_path / "copy", digest)
    assert (tmp_path / "copy" / "sub" / "config.json").read_text() == "{}"
    another_pod().pipe_file("models/desk/v1/weights", b"Weights")
    with pytest.raises(ManifestError, match="weights"):
        storage.fetch_folder("s3://models/desk/v1", tmp_path / "again", digest)


def test_files_are_seen_as_they_are_now_by_whoever_looked_before(tmp_path: Path) -> None:
    assert storage.read_text("s3://models/run/owner") is None
    assert not storage.exists("s3://models/run/owner")
    for text in ("one", "two"):
        storage.write_text("s3://models/run/owner", text)
        assert storage.read_text("s3://models/run/owner") == text
    another_pod().pipe_file("models/run/owner", b"three")
    assert storage.read_text("s3://models/run/owner") == "three"
    assert storage.fetch_file("s3://models/run/owner", tmp_path).read_text() == "three"
    assert storage.exists("s3://models/run/owner")


def test_of_several_writers_of_an_object_the_first_one_wins() -> None:
    assert [storage.create_text("s3://models/results/one", text) for text in ("a", "b")] == [True, False]
    assert storage.read_text("s3://models/results/one") == "a"


def test_files_below_a_folder_come_sorted_and_a_folder_that_is_not_there_has_none() -> None:
    for name in ("v1/pod/2", "v1/pod/1", "v1/pod/1.txt", "v2/other/3"):
        storage.write_text(f"s3://models/feedback/{name}", name)
    assert list(storage.read_files("s3://models/feedback", "*/*/?")) == [b"v1/pod/1", b"v1/pod/2", b"v2/other/3"]
    assert list(storage.read_files("s3://models/nothing", "*/*/?")) == []


Call = Callable[[Path], object]
CALLS: dict[str, Call] = {
    "fetch_file": lambda folder: storage.fetch_file("s3://models/x/file", folder),
    "fetch_folder": lambda folder: storage.fetch_folder("s3://models/x", folder / "copy"),
    "read_text": lambda folder: storage.read_text("s3://models/x/file"),
    "read_files": lambda folder: list(storage.read_files("s3://models/x", "*")),
    "exists": lambda folder: storage.exists("s3://models/x/file"),
    "write_text": lambda folder: storage.write_text("s3://models/x/file", "text"),
    "create_text": lambda folder: storage.create_text("s3://models/x/new", "text"),
    "publish": lambda folder: storage.publish(folder, "s3://models/x"),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "wrong",
    [{"AWS_SECRET_ACCESS_KEY": "another"}, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}],
    ids=["wrong key", "no key"],
)
def test_wrong_credentials_are_told_and_not_tried_again(
    call: Call, wrong: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # or botocore asks a cloud that isn't there
    for name, value in wrong.items():
        monkeypatch.setenv(name, value) if value else monkeypatch.delenv(name)
    with pytest.raises(storage.StorageError, match="s3://models/x") as caught:
        call(folder)
    assert not caught.value.passing


def test_what_is_missing_is_told_and_not_tried_again(tmp_path: Path) -> None:
    for uri in ("s3://models/none.csv", "s3://no-such-bucket/rows.csv"):
        with pytest.raises(storage.StorageError, match=uri) as caught:
            storage.fetch_file(uri, tmp_path)
        assert not caught.value.passing
        with pytest.raises(storage.StorageError, match=uri) as caught:
            storage.fetch_folder(uri, tmp_path / "copy")
        assert not caught.value.passing


def test_a_server_that_does_not_answer_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(storage.StorageError, match="s3://models/x") as caught:
        storage.fetch_file("s3://models/x", tmp_path)
    assert caught.value.passing


def test_half_a_folder_is_no_folder(folder: Path) -> None:
    storage.publish(folder, "s3://models/half")
    assert storage.exists(f"s3://models/half/{MANIFEST}")
    fs = fsspec.filesystem("s3")
    fs.rm_file(f"models/half/{MANIFEST}")
    with pytest.raises(ManifestError):
        storage.fetch_folder("s3://models/half", folder.parent / "copy", "sha256:" + "0" * 64)


def test_google_cloud_storage_has_its_driver_too() -> None:
    assert fsspec.get_filesystem_class("gs").__module__.startswith("gcsfs")

"""Only the model that was promised, and nothing that runs code, gets into the pod."""

import json
import shutil
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from driftloop.contract.manifest import Manifest
from driftloop.contract.result import StageError, decode
from driftloop.contract.task import ServeTask
from driftloop.podlib.ending import BadInput, TryAgain
from driftloop.podlib.storage import publish
from driftloop_server.fetch import fetch
from unit.server.processes import Artefact, Start


@pytest.fixture
def publish_with(
    model_folder: Path, tmp_path: Path, serve_task: ServeTask, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ServeTask]:
    """The task of a model that was published with some files more (None: one less)."""
    monkeypatch.setenv("DRIFTLOOP_VOLUMES", str(tmp_path / "volumes"))

    def build(files: dict[str, str | None]) -> ServeTask:
        folder = tmp_path / "changed"
        shutil.copytree(model_folder, folder)
        for name, content in files.items():
            if content is None:
                (folder / name).unlink()
            else:
                (folder / name).write_text(content)
        digest = publish(folder, "pvc://models/changed").digest
        return serve_task.model_copy(
            update={
                "artefact_uri": "pvc://models/changed",
                "artefact_digest": digest,
                "model_dir": str(tmp_path / "model"),
            }
        )

    return build


def test_the_promised_model_is_brought_and_may_be_brought_again(publish_with: Callable[..., ServeTask]) -> None:
    task = publish_with({})
    assert fetch(task).digest == task.artefact_digest
    stale = Path(task.model_dir) / "left-by-another-run.json"
    stale.write_text("{}")
    fetch(task)
    assert not stale.exists()
    assert Manifest.of(Path(task.model_dir)).digest == task.artefact_digest


def test_the_next_pod_starts_from_the_copy_while_the_artefact_cannot_be_read(
    publish_with: Callable[..., ServeTask], tmp_path: Path
) -> None:
    task = publish_with({}).model_copy(update={"cache_uri": "pvc://copies/models", "cache_bytes": 1 << 30})
    fetch(task)
    shutil.rmtree(tmp_path / "volumes/models")
    second = task.model_copy(update={"model_dir": str(tmp_path / "second")})
    assert fetch(second).digest == task.artefact_digest
    assert Manifest.of(tmp_path / "second").digest == task.artefact_digest
    with pytest.raises(TryAgain):
        fetch(second.model_copy(update={"cache_uri": None, "model_dir": str(tmp_path / "third")}))


def test_the_services_template_is_not_in_the_copy(publish_with: Callable[..., ServeTask], tmp_path: Path) -> None:
    cached = publish_with({}).model_copy(update={"cache_uri": "pvc://copies/models", "cache_bytes": 1 << 30})
    fetch(cached.model_copy(update={"chat_template_kwargs": {"enable_thinking": False}}))
    fetch(cached.model_copy(update={"model_dir": str(tmp_path / "second")}))
    assert Manifest.of(tmp_path / "second").digest == cached.artefact_digest


def test_the_services_template_is_set_after_the_model_was_verified(publish_with: Callable[..., ServeTask]) -> None:
    task = publish_with({}).model_copy(update={"chat_template_kwargs": {"enable_thinking": False}})
    for _ in range(2):  # the container may start again
        assert fetch(task).digest == task.artefact_digest
        lines = (Path(task.model_dir) / "chat_template.jinja").read_text().splitlines()
        assert lines[0] == "{% if enable_thinking is not defined %}{% set enable_thinking = false %}{% endif %}"
        assert "enable_thinking" not in "".join(lines[1:])


def test_values_without_a_template_are_a_wrong_input(publish_with: Callable[..., ServeTask]) -> None:
    task = publish_with({"chat_template.jinja": None}).model_copy(update={"chat_template_kwargs": {"v": 1}})
    with pytest.raises(BadInput, match=r"NoChatTemplate.*engine\.chatTemplateKwargs"):
        fetch(task)


def test_what_the_manifest_does_not_list_stays_out(publish_with: Callable[..., ServeTask], tmp_path: Path) -> None:
    task = publish_with({})
    (tmp_path / "volumes/models/changed/generation_config.json").write_text('{"temperature": 9}')
    with pytest.raises(BadInput, match="does not match the manifest"):
        fetch(task)
    (tmp_path / "volumes/models/changed/generation_config.json").unlink()
    with pytest.raises(BadInput, match="is missing"):
        fetch(task.model_copy(update={"model_dir": str(tmp_path / "fresh")}))


@pytest.mark.parametrize(
    ("files", "reason", "names"),
    [
        ({"pytorch_model.bin": "x"}, "PickleWeights", "pytorch_model.bin"),
        ({"optimizer.pt": "x"}, "PickleWeights", "optimizer.pt"),
        ({"extra.pkl": "x"}, "PickleWeights", "extra.pkl"),
        ({"model.safetensors": None}, "ModelNotFound", "safetensors"),
        ({"config.json": None}, "ModelNotFound", "config.json"),
        ({"config.json": "{"}, "ModelNotFound", "config.json"),
        ({"config.json": json.dumps({"auto_map": {"AutoModel": "code.Model"}})}, "RemoteCode", "config.json"),
        ({"tokenizer_config.json": json.dumps({"auto_map": {}})}, "RemoteCode", "tokenizer_config.json"),
    ],
)
def test_a_folder_that_is_no_safe_model_is_refused(
    publish_with: Callable[..., ServeTask], files: dict[str, str | None], reason: str, names: str
) -> None:
    with pytest.raises(BadInput, match=names) as caught:
        fetch(publish_with(files))
    assert caught.value.reason == reason


def test_a_wrong_digest_ends_the_container_with_78_and_says_why(
    launch: Start, serve_task: ServeTask, artefact: Artefact, tmp_path: Path
) -> None:
    task = serve_task.model_copy(update={"artefact_digest": "sha256:" + "0" * 64, "model_dir": str(tmp_path / "m")})
    process = launch("fetch", task, DRIFTLOOP_VOLUMES=str(artefact.volumes))
    assert process.popen.wait(60) == 78
    found = decode(process.output.with_suffix(".termination").read_text())
    assert isinstance(found, StageError)
    assert found.reason == "DigestMismatch"
    assert artefact.digest in found.message


def test_storage_that_is_not_there_may_come(launch: Start, serve_task: ServeTask, tmp_path: Path) -> None:
    task = serve_task.model_copy(update={"artefact_uri": "pvc://gone/model", "model_dir": str(tmp_path / "m")})
    process = launch("fetch", task, DRIFTLOOP_VOLUMES=str(tmp_path))
    assert process.popen.wait(60) == 75
    found = decode(process.output.with_suffix(".termination").read_text())
    assert isinstance(found, StageError)
    assert found.reason == "StorageUnreadable"
    assert "pvc://gone/model: no such folder" in found.message


def test_it_leaves_at_once_when_its_pod_is_deleted(launch: Start, serve_task: ServeTask, tmp_path: Path) -> None:
    """Process 1 of a container ignores SIGTERM without a handler, and was killed after the pod's whole grace period."""
    task = serve_task.model_copy(update={"artefact_uri": "s3://models/big", "model_dir": str(tmp_path / "m")})
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        process = launch("fetch", task, AWS_ENDPOINT_URL=f"http://127.0.0.1:{silent.getsockname()[1]}", **keys)
        connection, _ = silent.accept()
        with connection:
            process.terminate()
            assert process.popen.wait(10) == 128 + signal.SIGTERM

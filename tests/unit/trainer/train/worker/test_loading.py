"""A base model in a bucket: types that are loaded and exported as a whole."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from driftloop.contract.manifest import ManifestError
from driftloop.contract.task import TrainTask
from driftloop.podlib.storage import publish
from driftloop_trainer.folders import open_folder
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.loading import load_sharded
from driftloop_trainer.train.worker.mesh import Mesh
from testcluster.s3 import Server, server
from unit.storage_secret import credentials_of
from unit.trainer import templates
from unit.trainer.prepare.test_folder import TINY, folder, prepared
from unit.trainer.train.worker.test_export import ROWS, task

pytestmark = pytest.mark.usefixtures("one_rank")

BUCKET = "s3://models/base"
REARRANGED = TINY | {"model_type": "olmo_hybrid", "num_hidden_layers": 2, "num_key_value_heads": 1}
UNTIED = TINY | {"model_type": "llama", "num_key_value_heads": 1, "max_position_embeddings": 128}
VOCABULARY = {"type": "lora", "r": 2, "targetModules": ["embed_tokens", "q_proj"]}


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with server(tmp_path_factory.mktemp("s3")) as found:
        found.bucket("models")
        yield found


@pytest.fixture(autouse=True)
def credentials(s3: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with credentials_of(s3, monkeypatch):
        yield


def in_a_bucket(volume: Path, fields: dict[str, Any], **training: Any) -> TrainTask:
    """The task of a training whose base model is in the bucket; its data are on the volume."""
    prepared(volume, ROWS, templates.CHATML, architecture=fields)
    job = task(volume, **training)
    digest = publish(volume / "base", BUCKET).digest
    return job.model_copy(update={"model": job.model.model_copy(update={"uri": BUCKET, "digest": digest})})


@pytest.mark.parametrize(
    ("fields", "training"),
    [(REARRANGED, {}), (UNTIED, {"adapter": VOCABULARY})],
    ids=["weights that transformers rearranges", "an adapter of the embeddings"],
)
def test_a_model_is_read_from_its_bucket_as_a_whole_and_written_whole(
    volume: Path, tmp_path: Path, fields: dict[str, Any], training: dict[str, Any]
) -> None:
    job = in_a_bucket(volume, fields, **training)
    base = open_folder(BUCKET, tmp_path / "base", job.model.digest, weights=False)
    assert not list(base.glob("*.safetensors"))
    sharded = load_sharded(base, BUCKET, job.training, Mesh.of("cpu"), torch.device("cpu"))
    (tmp_path / "left").mkdir()
    export(sharded, Export(job, base, folder(volume), {}, job.output), tmp_path / "left")
    version = volume / "versions" / "uid"
    before, after = (load_file(path / "model.safetensors") for path in (volume / "base", version))
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in before)
    AutoModelForCausalLM.from_pretrained(version)


def test_a_model_that_changed_in_its_bucket_since_it_was_verified_is_refused(volume: Path, tmp_path: Path) -> None:
    job = in_a_bucket(volume, REARRANGED)
    base = open_folder(BUCKET, tmp_path / "base", job.model.digest, weights=False)
    with (volume / "base" / "model.safetensors").open("r+b") as stream:
        stream.seek(-4, 2)
        stream.write(b"\1\2\3\4")
    publish(volume / "base", BUCKET)
    with pytest.raises(ManifestError, match="digest is"):
        load_sharded(base, BUCKET, job.training, Mesh.of("cpu"), torch.device("cpu"))

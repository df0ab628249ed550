"""A version that is an adapter alone: merged when it is fetched, it is the version that a merging training exports."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from driftloop.contract.manifest import Manifest, ManifestError
from driftloop.contract.modelfolder import ADAPTER_BASE, ADAPTER_FILES, ADAPTER_WEIGHTS, AdaptedWeight, AdapterBase
from driftloop.contract.task import ModelSource, ServeTask
from driftloop.podlib import merging, safety, tensors
from driftloop.podlib.adapters import base_files, verify_bases
from driftloop.podlib.ending import BadInput, StageFailure, TryAgain
from driftloop.podlib.storage import StorageError, publish
from driftloop.podlib.tensors import model_tensors
from driftloop_server.engine.model import load
from driftloop_server.fetch import fetch
from driftloop_trainer.folders import open_folder
from driftloop_trainer.modelfiles import check_model_files
from driftloop_trainer.models import load_config
from driftloop_trainer.train.worker.export import Export, export
from driftloop_trainer.train.worker.loading import load_sharded, place
from driftloop_trainer.train.worker.mesh import Mesh
from driftloop_trainer.weights import check_weights
from driftloop_trainer.wholemodel import with_weights
from testcluster.s3 import server
from unit.storage_secret import credentials_of
from unit.trainer import templates
from unit.trainer.prepare.test_folder import folder, prepared
from unit.trainer.train.worker.test_export import ARCHITECTURES, HEADS, ROWS, task

pytestmark = pytest.mark.usefixtures("one_rank")

BASE = ModelSource(uri="pvc://claim/base")
LORA = {"type": "lora", "r": 2, "loraAlpha": 8, "loraDropout": 0}
IDS = torch.arange(10)[None]


@dataclass(frozen=True)
class Trainings:
    """Trainings on the prepared rows, whose versions are in the folder at `versions`."""

    volume: Path
    scratch: Path
    versions: str = "pvc://claim/versions"

    def version(self, name: str, start: ModelSource, adapter: dict[str, Any], *, merged: bool = False) -> ModelSource:
        """A version that was trained from `start`. Its adapter is the same whenever start and `adapter` are."""
        uri, bases = start.uri or "", start.bases
        job = task(self.volume, adapter=adapter)
        job = job.model_copy(update={"model": start, "merge_adapter": merged, "output": f"{self.versions}/{name}"})
        base = open_folder(uri, self.scratch / f"{name}-base", start.digest, weights=False)
        verify_bases(uri, bases)
        check_weights(load_config(base), uri, bases)
        sharded = load_sharded(base, uri, job.training, Mesh.of("cpu"), torch.device("cpu"), bases)
        change(sharded.model)
        (self.scratch / name).mkdir()
        files = () if merged else tuple(base_files(uri, bases, base))
        plan = Export(job, base, folder(self.volume), {}, job.output, base_files=files)
        digest = export(sharded, plan, self.scratch / name)
        return ModelSource(uri=job.output, digest=digest, bases=() if merged else (uri, *bases))

    def fetched(self, version: ModelSource) -> Path:
        """The folder that a serving pod's engine gets."""
        model = self.scratch / "pod" / (version.uri or "").rpartition("/")[2]
        fetch(serve_task(version, model))
        return model


@pytest.fixture
def trainings(volume: Path, tmp_path: Path) -> Trainings:
    return Trainings(volume, tmp_path)


@torch.no_grad()
def change(model: Any) -> None:
    """Let the adapter change the model, as a training does."""
    random = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if ".lora_B." in name:
            place(torch.randn(parameter.shape, generator=random) / 10, parameter, source=None)


def serve_task(version: ModelSource, model: Path) -> ServeTask:
    return ServeTask(
        namespace="support",
        service="desk",
        service_uid="uid",
        family="family",
        version="version",
        revision="r1",
        artefact_uri=version.uri or "",
        artefact_digest=version.digest or "",
        artefact_bases=version.bases,
        model_dir=str(model),
    )


def base_model(volume: Path, model_type: str = "llama", stored: torch.dtype = torch.float32, **fields: Any) -> None:
    """A base model at BASE, and rows prepared for it. `stored`: type of its weights in its files."""
    known = HEADS | ARCHITECTURES[model_type] | {"num_hidden_layers": 2} | fields
    architecture = {name: value for name, value in known.items() if value is not None}
    prepared(volume, ROWS, templates.CHATML, architecture=architecture | {"model_type": model_type})
    files = list((volume / "base").glob("*.safetensors"))
    for file in files:
        weights = {name: weight.to(stored) for name, weight in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    (volume / "base" / "manifest.json").unlink(missing_ok=True)


def weights_of(model: Path) -> dict[str, torch.Tensor]:
    return {name: weight for file in sorted(model.glob("*.safetensors")) for name, weight in load_file(file).items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize(
    ("model_type", "adapter", "dtype", "stored"),
    [
        ("llama", {}, "float32", torch.float32),
        ("llama", {"type": "qlora"}, "float32", torch.float32),
        ("llama", {"type": "qlora", "targetModules": ["q_proj"]}, "bfloat16", torch.bfloat16),
        ("qwen3", {}, "bfloat16", torch.float32),
        ("qwen3", {"targetModules": ["q_proj", "down_proj"]}, "float32", torch.float16),
        ("gpt2", {}, "float32", torch.float32),
        ("phi3", {}, "bfloat16", torch.bfloat16),
    ],
)
def test_the_fetched_adapter_is_the_version_that_is_merged_at_export(
    trainings: Trainings,
    monkeypatch: pytest.MonkeyPatch,
    model_type: str,
    adapter: dict[str, Any],
    dtype: str,
    stored: torch.dtype,
) -> None:
    monkeypatch.setattr(tensors, "_AT_A_TIME", 100)  # so that a matrix is merged in several parts
    base_model(trainings.volume, model_type, stored, dtype=dtype)
    merged = trainings.version("merged", BASE, LORA | adapter, merged=True)
    alone = trainings.version("alone", BASE, LORA | adapter)
    expected, fetched = trainings.volume / "versions" / "merged", trainings.fetched(alone)
    assert same(weights_of(fetched), weights_of(expected))
    base = weights_of(trainings.volume / "base")
    assert any(not torch.equal(base[name].to(weight.dtype), weight) for name, weight in weights_of(fetched).items())
    files, those = (
        {path.name: path.read_bytes() for path in model.iterdir() if path.name not in ("README.md", "manifest.json")}
        for model in (fetched, expected)
    )
    assert files.keys() == those.keys()
    assert [name for name in files if files[name] != those[name]] in ([], ["model.safetensors"])  # the order in it
    assert merged.digest != alone.digest
    with torch.no_grad():
        answers = [load(model).model(IDS).logits for model in (fetched, expected)]
    assert torch.equal(*answers)


def test_the_folder_has_what_peft_saves_and_megabytes_less(trainings: Trainings) -> None:
    base_model(trainings.volume, vocab_size=2000)
    alone = trainings.version("alone", BASE, LORA)
    left = trainings.volume / "versions" / "alone"
    assert set(ADAPTER_FILES) <= {path.name for path in left.iterdir()}
    assert [path.name for path in left.glob("*.safetensors")] == [ADAPTER_WEIGHTS]
    known = json.loads((left / ADAPTER_BASE).read_text())
    (file,) = known["files"]
    assert (known["uri"], file["path"]) == ("pvc://claim/base", "model.safetensors")
    assert Manifest.read(left).digest == alone.digest
    base = AutoModelForCausalLM.from_pretrained(trainings.volume / "base", dtype=torch.float32)
    served = AutoModelForCausalLM.from_pretrained(trainings.fetched(alone), dtype=torch.float32)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, str(left)).eval()(IDS).logits
        assert torch.allclose(adapted, served(IDS).logits, atol=1e-5)
    assert "PeftModel" in (left / "README.md").read_text()


@pytest.mark.parametrize("adapter", [{}, {"type": "qlora"}])
def test_a_training_starts_from_an_adapter_as_from_the_merged_version(
    trainings: Trainings, adapter: dict[str, Any]
) -> None:
    base_model(trainings.volume, "qwen3", torch.bfloat16, dtype="bfloat16")
    merged = trainings.version("merged", BASE, LORA | adapter, merged=True)
    alone = trainings.version("alone", BASE, LORA | adapter)
    read = {name: tensor.read() for name, tensor in model_tensors(alone.uri or "", alone.bases).items()}
    assert same(read, weights_of(trainings.volume / "versions" / "merged"))
    with with_weights(trainings.volume / "versions" / "alone", alone.uri or "", alone.bases) as whole:
        assert same(weights_of(whole), read)
    for name, start in (("after-merged", merged), ("after-alone", alone)):
        trainings.version(name, start, LORA | {"r": 4}, merged=True)
    one, other = (weights_of(trainings.volume / "versions" / name) for name in ("after-merged", "after-alone"))
    assert same(one, other)
    assert not same(one, read)


def test_an_adapter_on_an_adapter_is_merged_in_the_order_of_the_trainings(trainings: Trainings) -> None:
    base_model(trainings.volume, "llama", torch.bfloat16, dtype="bfloat16")
    merged = alone = BASE
    for number in range(3):
        adapter = LORA | {"r": 2 + number, "type": "qlora" if number == 1 else "lora"}
        merged = trainings.version(f"merged-{number}", merged, adapter, merged=True)
        alone = trainings.version(f"alone-{number}", alone, adapter)
    assert alone.bases == ("pvc://claim/versions/alone-1", "pvc://claim/versions/alone-0", "pvc://claim/base")
    fetched = trainings.fetched(alone)
    assert same(weights_of(fetched), weights_of(trainings.volume / "versions" / "merged-2"))
    assert not safety.has_adapter(fetched)
    for bases in (alone.bases[:1], alone.bases[:2], (*alone.bases, "pvc://claim/base"), alone.bases[1:]):
        with pytest.raises(BadInput, match=r"DigestMismatch.*artefact\.bases|DigestMismatch.*was trained on"):
            trainings.fetched(alone.model_copy(update={"bases": bases}))


def test_a_base_in_a_bucket_is_merged_file_by_file_without_a_copy_of_it(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the base nor its adapter has a volume, and the base has several files, with an index."""
    base_model(trainings.volume, "llama")
    base = AutoModelForCausalLM.from_pretrained(trainings.volume / "base")
    (trainings.volume / "base" / "model.safetensors").unlink()
    base.save_pretrained(trainings.volume / "base", max_shard_size="20KB")
    sizes = {path.name: path.stat().st_size for path in (trainings.volume / "base").glob("*.safetensors")}
    assert len(sizes) > 2
    with server(tmp_path / "s3") as s3, credentials_of(s3, monkeypatch):
        s3.bucket("models")
        publish(trainings.volume / "base", "s3://models/base")
        in_bucket = replace(trainings, versions="s3://models/versions")
        start = ModelSource(uri="s3://models/base")
        merged = in_bucket.version("merged", start, LORA, merged=True)
        alone = in_bucket.version("alone", start, LORA)
        most: list[int] = []
        write = tensors.write_tensors

        def watched(parts: Any, target: Path) -> None:
            most.append(sum(path.stat().st_size for path in target.parent.rglob(".base-*/*")))
            write(parts, target)

        monkeypatch.setattr(merging, "write_tensors", watched)
        fetched = in_bucket.fetched(alone)
        expected = tmp_path / "expected"
        fetch(serve_task(merged, expected))
        after = in_bucket.version("after", alone, LORA | {"r": 4})
        assert after.bases == ("s3://models/versions/alone", "s3://models/base")
    assert same(weights_of(fetched), weights_of(expected))
    assert len(most) == len(sizes)
    assert max(most) == max(sizes.values())  # one file of the base at a time
    assert not list(fetched.glob(".*"))


def test_a_base_that_has_changed_or_gone_ends_fetch_and_training_with_what_to_do(trainings: Trainings) -> None:
    base_model(trainings.volume)
    alone = trainings.version("alone", BASE, LORA)
    file = trainings.volume / "base" / "model.safetensors"
    kept = file.read_bytes()
    file.write_bytes(kept[:-4] + b"\0\1\2\3")
    changed = (
        r"pvc://claim/base/model.safetensors is not the file that the adapter was trained on.*restore.*train again"
    )
    with pytest.raises(BadInput, match=rf"DigestMismatch.*{changed}"):
        trainings.fetched(alone)
    with pytest.raises(ManifestError, match=changed):
        verify_bases(alone.uri or "", alone.bases)
    file.unlink()
    gone = r"the version is an adapter, whose base can't be read: pvc://claim/base/model.safetensors.*restore it"
    with pytest.raises(TryAgain, match=rf"StorageUnreadable.*{gone}"):
        trainings.fetched(alone)
    with pytest.raises(StorageError, match=gone):
        verify_bases(alone.uri or "", alone.bases)
    file.write_bytes(kept)
    verify_bases(alone.uri or "", alone.bases)
    trainings.fetched(alone)  # the container starts again


def test_an_adapter_without_bases_and_bases_without_an_adapter_are_refused(trainings: Trainings) -> None:
    base_model(trainings.volume)
    alone = trainings.version("alone", BASE, LORA)
    merged = trainings.version("merged", BASE, LORA, merged=True)
    with pytest.raises(BadInput, match=r"ModelNotFound.*is an adapter: name .* in spec\.artefact\.bases"):
        trainings.fetched(alone.model_copy(update={"bases": ()}))
    with pytest.raises(BadInput, match=r"ModelNotFound.*is not an adapter: remove spec\.artefact\.bases"):
        trainings.fetched(merged.model_copy(update={"bases": alone.bases}))
    with pytest.raises(StageFailure, match=r"ModelNotFound.*model\.from\.versionRef"):
        check_model_files(trainings.volume / "versions" / "alone", alone.uri or "")


def test_the_memory_for_merging_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    rows, columns = 40_000, 1000
    matrix = torch.zeros(rows, columns, dtype=torch.bfloat16)
    matrix[::7] = 1
    save_file({"w": matrix}, tmp_path / "model.safetensors")
    source = f"file://{tmp_path}/model.safetensors"
    adapter = {
        f"base_model.model.w.{name}.weight": torch.ones(shape)
        for name, shape in (("lora_A", (2, columns)), ("lora_B", (rows, 2)))
    }
    save_file(adapter, tmp_path / ADAPTER_WEIGHTS)
    known = AdapterBase(uri="x", files=[], dtype="bfloat16", scaling=0.5, weights={"w": AdaptedWeight(module="w")})
    (tmp_path / ADAPTER_BASE).write_text(known.model_dump_json(by_alias=True))
    script = (
        "import resource, sys, pathlib\n"
        "from driftloop.podlib.tensors import tensors_of, with_adapter, write_tensors\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "merged = with_adapter(dict(tensors_of(sys.argv[2])), f'file://{folder}')\n"
        "used = lambda: int(next(l for l in open('/proc/self/status') if l.startswith('VmData')).split()[1]) << 10\n"
        "merged['w'].rows(0, 10)\n"
        "limit = used() + (60 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
        "write_tensors(merged, folder / 'merged.safetensors')\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", script, str(tmp_path), source], check=True, env=environment)
    assert torch.equal(load_file(tmp_path / "merged.safetensors")["w"], matrix + 1)

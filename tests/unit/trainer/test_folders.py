"""A model's weights are verified without a copy of them, wherever they are."""

from pathlib import Path

import fsspec
import pytest

from driftloop.contract.manifest import MANIFEST, ManifestError
from driftloop.podlib.storage import manifest_of, publish
from driftloop_trainer.folders import open_folder, verify_weights
from driftloop_trainer.train.run import plain


@pytest.mark.parametrize("uri", ["pvc://claim/model", "memory://{}/model"])
def test_weights_are_left_where_they_are_and_verified_there(volume: Path, tmp_path: Path, uri: str) -> None:
    built = tmp_path / "built"
    built.mkdir()
    (built / "config.json").write_text("{}")
    (built / "model.safetensors").write_text("weights")
    place = uri.format(tmp_path.name)
    digest = publish(built, place).digest
    folder = open_folder(place, tmp_path / "scratch", digest, weights=False)
    assert not (tmp_path / "scratch" / "model.safetensors").exists()
    verify_weights(place, folder)
    (built / "model.safetensors").write_text("Weights")
    publish(built, place)
    with pytest.raises(ManifestError, match="digest is"):
        open_folder(place, tmp_path / "other", digest, weights=False)


def test_changed_weights_are_found_by_their_content(volume: Path, tmp_path: Path) -> None:
    built = tmp_path / "built"
    built.mkdir()
    (built / "model.safetensors").write_text("weights")
    publish(built, "pvc://claim/model")
    (volume / "model" / "model.safetensors").write_text("Weights")
    with pytest.raises(ManifestError, match=r"content of model\.safetensors does not match"):
        verify_weights("pvc://claim/model", open_folder("pvc://claim/model", tmp_path / "scratch", weights=False))


@pytest.mark.parametrize("uri", ["pvc://claim/model", "memory://{}/model"])
def test_a_folder_without_a_manifest_is_verified_against_one_that_was_made_of_it(
    volume: Path, tmp_path: Path, uri: str
) -> None:
    built = tmp_path / "built"
    built.mkdir()
    (built / "config.json").write_text("{}")
    (built / "model.safetensors").write_text("weights")
    place = uri.format(tmp_path.name)
    publish(built, place)
    without_manifest(place)
    made = manifest_of(place)
    folder = open_folder(place, tmp_path / "scratch", weights=False, manifest=made)
    verify_weights(place, folder, made)
    for name, changed in (("model.safetensors", "Weights"), ("config.json", "[]")):
        (built / name).write_text(changed)
    publish(built, place)
    without_manifest(place)
    with pytest.raises(ManifestError, match=r"content of model\.safetensors does not match"):
        verify_weights(place, folder, made)
    with pytest.raises(ManifestError, match=r"content of config\.json does not match"):
        open_folder(place, tmp_path / "other", weights=False, manifest=made)


def without_manifest(uri: str) -> None:
    fs, path = fsspec.core.url_to_fs(plain(uri))
    fs.rm(f"{path}/{MANIFEST}")

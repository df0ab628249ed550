"""The weights in a folder's files are those of its configuration, or the folder is refused before any GPU is taken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError
from driftloop_trainer.models import config_for
from driftloop_trainer.weights import check_weights, is_rearranged, stored_tensors
from unit.trainer.conftest import ARCHITECTURE

URI = "pvc://claim/model"


@pytest.fixture
def config(volume: Path) -> object:
    """Of a small model that lies at URI."""
    config = config_for(ARCHITECTURE | {"vocab_size": 64})
    AutoModelForCausalLM.from_config(config).save_pretrained(volume / "model")  # type: ignore[no-untyped-call]
    return config


def test_tensors_are_read_whole_and_in_part(volume: Path, config: object) -> None:
    expected = load_file(volume / "model" / "model.safetensors")
    tensors = stored_tensors(URI)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor.read(), expected[name])
        assert torch.equal(tensor.rows(3, 5), expected[name][3:8])
    check_weights(config, URI)


def test_files_that_the_index_does_not_name_are_not_read(volume: Path, config: object) -> None:
    """Mistral's folders have the same weights again in consolidated.safetensors."""
    folder = volume / "model"
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: tensors[name] for name in own}, folder / file)
    index = {"weight_map": {name: file for file, own in halves.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"other": torch.zeros(1)}, folder / "consolidated.safetensors")
    assert stored_tensors(URI).keys() == tensors.keys()
    check_weights(config, URI)


def test_a_missing_weight_and_one_of_another_shape_are_named(volume: Path, config: object) -> None:
    file = volume / "model" / "model.safetensors"
    tensors = load_file(file)
    norm = tensors.pop("model.norm.weight")
    save_file(tensors, file)
    with pytest.raises(StageFailure, match=r"ModelNotFound: the weights lack model\.norm\.weight, which config\.json"):
        check_weights(config, URI)
    save_file(tensors | {"model.norm.weight": torch.cat([norm, norm])}, file)
    with pytest.raises(StageFailure, match=r"model\.norm\.weight has the shape \[32\], .* for \[16\]"):
        check_weights(config, URI)


@pytest.mark.parametrize(
    "content", [b"", b"\x10" + bytes(7) + b"not json at all!", (8).to_bytes(8, "little") + b'{"a": 1}']
)
def test_a_file_that_is_cut_short_or_no_safetensors_is_named(volume: Path, config: object, content: bytes) -> None:
    (volume / "model" / "model.safetensors").write_bytes(content)
    with pytest.raises(StorageError, match=URI):
        check_weights(config, URI)


def test_weights_that_transformers_rearranges_are_known() -> None:
    sizes = ARCHITECTURE | {"num_key_value_heads": 1, "vocab_size": 64}
    with torch.device("meta"):
        dense, experts = (
            AutoModelForCausalLM.from_config(config_for(sizes | fields))  # type: ignore[no-untyped-call]
            for fields in ({}, {"model_type": "mixtral", "num_local_experts": 2})
        )
    assert (is_rearranged(dense), is_rearranged(experts)) == (False, True)

"""The weights in a folder's files are those of its configuration, or the folder is refused before any GPU is taken."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from driftloop.podlib.ending import StageFailure
from driftloop.podlib.storage import StorageError
from driftloop.podlib.tensors import stored_tensors
from driftloop_trainer.models import config_for
from driftloop_trainer.weights import check_weights, is_rearranged, stored_weights
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


SIZES = ARCHITECTURE | {"num_key_value_heads": 1, "vocab_size": 64, "tie_word_embeddings": False}
EXPERTS = SIZES | {"num_local_experts": 3, "num_experts": 3}


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_experts_that_are_stored_one_by_one_are_read_stacked_and_divided_again(volume: Path, model_type: str) -> None:
    config = config_for(EXPERTS | {"model_type": model_type})
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    model.save_pretrained(volume / "model")
    found = stored_weights(model, stored_tensors(URI))
    assert found is not None
    expected = model.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name].read(), weight) for name, weight in expected.items())
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert torch.equal(found[name].rows(1, 2), expected[name][1:3])
    files = {key: tensor for name, weight in expected.items() for key, tensor in found[name].divided(weight).items()}
    stored = load_file(volume / "model" / "model.safetensors")
    assert files.keys() == stored.keys()
    assert all(torch.equal(tensor, stored[name]) for name, tensor in files.items())
    assert not is_rearranged(model)


def test_an_expert_without_one_of_its_matrices_is_named(volume: Path) -> None:
    config = config_for(EXPERTS | {"model_type": "mixtral"})
    AutoModelForCausalLM.from_config(config).save_pretrained(volume / "model")  # type: ignore[no-untyped-call]
    file = volume / "model" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.block_sparse_moe.experts.1.w3.weight"]
    save_file(tensors, file)
    with pytest.raises(StageFailure, match=r"the weights lack parts of model\.layers\.0\.mlp\.experts\.gate_up_proj"):
        check_weights(config, URI)


def test_weights_that_transformers_rearranges_are_known() -> None:
    with torch.device("meta"):
        dense, fused = (
            AutoModelForCausalLM.from_config(config_for(SIZES | {"model_type": model_type, "pad_token_id": None}))  # type: ignore[no-untyped-call]
            for model_type in ("llama", "olmo_hybrid")
        )
    assert (is_rearranged(dense), is_rearranged(fused)) == (False, True)

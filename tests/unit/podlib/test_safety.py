"""What is unsafe to load is found wherever it lies in the folder."""

import json
from pathlib import Path

import pytest

from driftloop.podlib import safety


def test_pickled_files_are_found_below_too(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in ("a.bin", "inner/b.PT".lower(), "inner/c.pickle", "model.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert [path.name for path in safety.pickled(tmp_path)] == ["a.bin", "b.pt", "c.pickle"]


def test_weights_count_where_they_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/model.safetensors").write_bytes(b"")
    assert not safety.has_safetensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert safety.has_safetensors(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "inner/generation_config.json"])
def test_code_that_comes_with_the_weights_is_found_in_every_configuration(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "other.json").write_text(json.dumps({"auto_map": {}}))
    assert safety.brings_code(tmp_path) is None
    (tmp_path / name).write_text(json.dumps({"auto_map": {"AutoModel": "its.Code"}}))
    assert safety.brings_code(tmp_path) == Path(name).name


def test_a_configuration_that_can_not_be_read_is_not_taken_as_safe(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(safety.UnreadableConfig, match=r"tokenizer_config\.json is not JSON"):
        safety.brings_code(tmp_path)

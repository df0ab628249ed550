"""The template that a folder has, and the one that it is given."""

import json
from pathlib import Path

import pytest

from driftloop.podlib.templatefile import set_in_folder


def written(folder: Path) -> str:
    return (folder / "chat_template.jinja").read_text()


def test_a_folder_without_wishes_stays_as_it_is(tmp_path: Path) -> None:
    set_in_folder(tmp_path, None, None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("values", [None, {"v": 1}])
def test_a_given_template_replaces_that_of_the_model(tmp_path: Path, values: dict[str, int] | None) -> None:
    (tmp_path / "chat_template.jinja").write_text("own")
    set_in_folder(tmp_path, "{{ v }}", values)
    assert written(tmp_path).endswith("{{ v }}")
    assert ("set v = 1" in written(tmp_path)) == bool(values)


def test_values_stand_in_the_models_own_template_wherever_it_lies(tmp_path: Path) -> None:
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "in the config"}))
    set_in_folder(tmp_path, None, {"v": 1})
    assert written(tmp_path).endswith("in the config")
    (tmp_path / "chat_template.jinja").write_text("in a file")
    set_in_folder(tmp_path, None, {"v": 1})
    assert written(tmp_path).endswith("in a file")


@pytest.mark.parametrize("config", ["{}", '{"chat_template": [{"name": "default", "template": "x"}]}', "[]"])
def test_values_without_one_template_are_an_error(tmp_path: Path, config: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(ValueError, match="set chatTemplate too"):
        set_in_folder(tmp_path, None, {"v": 1})

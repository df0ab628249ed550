import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from driftloop_trainer.train.worker.generation import end_generation


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 2}, None, [7, 9, 2]),
        ({"eos_token_id": 2}, {"eos_token_id": [3, 9]}, [7, 9, 3]),
        ({"eos_token_id": None}, {}, [7, 9]),
        ({}, {"eos_token_id": 3, "temperature": 0.6}, [7, 9, 3]),
    ],
)
def test_what_ended_the_answers_ends_generation_beside_what_did_before(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: list[int]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    end_generation(tmp_path, [7], 9)
    assert GenerationConfig.from_pretrained(tmp_path).eos_token_id == expected
    kept = {key: value for key, value in (generation or {}).items() if key != "eos_token_id"}
    assert kept.items() <= json.loads((tmp_path / "generation_config.json").read_text()).items()


def test_a_single_end_stays_a_number(tmp_path: Path) -> None:
    end_generation(tmp_path, [9], 9)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == {"eos_token_id": 9}

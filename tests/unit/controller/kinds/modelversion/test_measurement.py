import json
from typing import Any

from driftloop.api.modelversion import Gate
from driftloop.api.suite import SuiteSpec
from driftloop.controller.kinds.modelversion.measurement import settings_of


def settings(**fields: Any) -> dict[str, Any]:
    suite = SuiteSpec.model_validate({"name": "s", "kind": "floor", "items": "data"} | fields)
    found: dict[str, Any] = json.loads(settings_of(suite, 32))
    return found


def test_the_settings_of_the_suite_win_over_the_default() -> None:
    assert settings() == {"maxTokens": 32, "temperature": 0.0}
    assert settings(maxTokens=7, stop=["\n"], temperature=0.5, topP=0.9, seed=3) == {
        "maxTokens": 7, "stop": ["\n"], "temperature": 0.5, "topP": 0.9, "seed": 3,
    }  # fmt: skip


def test_the_options_of_the_metric_are_told() -> None:
    metric = {"type": "json", "fields": [], "schema": {"type": "object"}}
    assert settings(metric=metric) == {
        "maxTokens": 32, "fields": [], "schema": {"type": "object"}, "temperature": 0.0,
    }  # fmt: skip


def test_the_model_and_the_hash_of_the_rubric_of_a_judge_are_told_but_not_its_secret() -> None:
    judge = {
        "url": "https://judge.example.org/v1",
        "model": "big",
        "prompt": "r" * 500,
        "secretRef": {"name": "s", "key": "k"},
    }
    found = settings(kind="target", metric={"type": "judge", "judge": judge})
    assert (found["judge.model"], found["judge.url"]) == ("big", "https://judge.example.org/v1")
    assert found["judge.prompt"].startswith("sha256:")
    assert not [name for name in found if "ecret" in name]


def test_long_settings_are_hashed_so_that_they_fit() -> None:
    long = {
        "systemPrompt": "x" * 8192,
        "stop": ["y" * 256] * 4,
        "temperature": 1.123456789012345,
        "topP": 0.123456789012345,
        "seed": 2**31 - 1,
        "maxTokens": 32_768,
        "metric": {"type": "json", "schema": {"description": "z" * 5000}, "fields": ["f" * 256] * 64},
    }
    found = settings(**long)
    assert found["systemPrompt"].startswith("sha256:")
    assert settings(**long | {"systemPrompt": "x" * 8191})["systemPrompt"] != found["systemPrompt"]
    Gate(name="s", kind="floor", verdict="Pass", message="", metric="json", settings=json.dumps(found))

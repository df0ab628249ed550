"""The schema generator: what pydantic says must survive into the CRDs, and nothing may get lost in silence."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import ConfigDict, Field

from driftloop.api.base import ApiModel, cel, rule
from driftloop.api.finetunejob import FineTuneJob
from driftloop.api.inferenceservice import InferenceService
from driftloop.cli import crds

ROOT = Path(__file__).parents[3]


def of(model: type[ApiModel]) -> dict[str, Any]:
    document = model.model_json_schema(by_alias=True)
    return crds.structural(document, document.pop("$defs", {}))


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every node of a structural schema, with its path."""
    yield path, schema
    for name, each in schema.get("properties", {}).items():
        yield from nodes(each, f"{path}.{name}")
    for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
        if key in schema:
            yield from nodes(schema[key], path + mark)


@pytest.fixture(params=crds.KINDS, ids=lambda kind: kind.KIND)
def schema(request: pytest.FixtureRequest) -> dict[str, Any]:
    return crds.schema_of(request.param)


def test_the_committed_files_are_fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert crds.main(["--check"]) == 0


def test_check_names_a_stale_file_and_writing_mends_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert crds.main(["--out", str(tmp_path)]) == 0
    assert crds.main(["--out", str(tmp_path), "--check"]) == 0
    (tmp_path / "finetunejobs.yaml").write_text("old")
    assert crds.main(["--out", str(tmp_path), "--check"]) == 1
    assert "finetunejobs.yaml is stale" in capsys.readouterr().err
    assert (tmp_path / "finetunejobs.yaml").read_text() == "old"  # a check writes nothing


def test_the_files_are_plain_yaml_without_anchors() -> None:
    assert not any(re.search(r"[:-] [&*]id", text) for text in crds.render().values())


def test_every_field_is_described(schema: dict[str, Any]) -> None:
    bare = [path for path, node in nodes(schema) if path.rpartition(".")[2].isalnum() and not node.get("description")]
    assert bare == [".metadata", ".metadata.name"]  # the API server allows no description there


def test_every_list_map_and_free_text_of_the_spec_is_bounded(schema: dict[str, Any]) -> None:
    def unbounded(node: dict[str, Any]) -> bool:
        match node.get("type", "string"):  # a quantity has none: it is an integer or a text
            case "array":
                return "maxItems" not in node
            case "object":
                return "additionalProperties" in node and "maxProperties" not in node
            case "string":
                return not ({"maxLength", "enum"} & node.keys())
        return False

    assert [path for path, node in nodes(schema["properties"]["spec"]) if unbounded(node)] == []


def test_status_has_no_defaults_so_it_holds_what_was_written(schema: dict[str, Any]) -> None:
    assert [path for path, node in nodes(schema["properties"]["status"]) if "default" in node] == []


def test_no_schema_has_null_as_a_default_or_pydantics_titles(schema: dict[str, Any]) -> None:
    assert [path for path, node in nodes(schema) if "title" in node or node.get("default", 0) is None] == []


def test_every_field_of_a_job_but_suspend_is_frozen() -> None:
    spec = crds.schema_of(FineTuneJob)["properties"]["spec"]
    frozen = {each["fieldPath"] for each in spec[crds.RULES] if "oldSelf" in each["rule"]}
    assert frozen == {f".{name}" for name in spec["properties"]} - {".suspend"}


def test_a_job_template_may_change() -> None:
    service = crds.schema_of(InferenceService)
    assert not [path for path, node in nodes(service) for each in node.get(crds.RULES, []) if "oldSelf" in each["rule"]]


def test_a_frozen_optional_field_may_neither_come_nor_go() -> None:
    spec = {"properties": {"a": {"type": "string"}}}
    (found,) = crds.frozen_but(spec, (), "Thing")
    assert found["rule"] == "has(self.a) == has(oldSelf.a) && (!has(self.a) || self.a == oldSelf.a)"


def test_an_optional_field_is_simply_not_required() -> None:
    class Model(ApiModel):
        size: int | None = Field(None, ge=1)

    assert of(Model) == {
        "type": "object",
        "properties": {"size": {"type": "integer", "format": "int64", "minimum": 1}},
    }


def test_an_exclusive_bound_is_spelled_as_openapi_3_0_has_it() -> None:
    class Model(ApiModel):
        rate: float = Field(gt=0)

    assert of(Model)["properties"]["rate"] == {"type": "number", "minimum": 0, "exclusiveMinimum": True}


def test_a_literal_of_one_word_is_an_enum() -> None:
    class Model(ApiModel):
        kind: Literal["only"]

    assert of(Model)["properties"]["kind"] == {"type": "string", "enum": ["only"]}


class Inner(ApiModel):
    """What it is."""

    size: int = 3


class Ruled(ApiModel):
    """What it is."""

    model_config = ConfigDict(json_schema_extra=cel(rule("self.size > 0", "inner")))
    size: int = 3


def test_a_parents_default_leaves_to_nested_defaults_what_they_say() -> None:
    class Model(ApiModel):
        same: Inner = Inner()
        other: Inner = Inner(size=4)
        many: list[Inner] = Field(default=[Inner(), Inner(size=5)])

    found = {name: node["default"] for name, node in of(Model)["properties"].items()}
    assert found == {"same": {}, "other": {"size": 4}, "many": [{}, {"size": 5}]}


def test_an_object_with_rules_keeps_its_whole_default() -> None:
    class Model(ApiModel):
        ruled: Ruled = Ruled()

    assert of(Model)["properties"]["ruled"]["default"] == {"size": 3}


def test_rules_of_a_type_and_of_the_field_that_uses_it_both_count() -> None:
    class Model(ApiModel):
        ruled: Ruled = Field(description="Mine.", json_schema_extra=cel(rule("self == oldSelf", "outer")))

    node = of(Model)["properties"]["ruled"]
    assert [each["message"] for each in node[crds.RULES]] == ["inner", "outer"]
    assert node["description"] == "Mine."


def test_what_has_no_structural_form_is_an_error() -> None:
    class Union(ApiModel):
        either: int | str

    class Open(ApiModel):
        anything: dict[str, Any]

    class Pair(ApiModel):
        pair: tuple[int, str]

    for model, message in ((Union, "union"), (Open, "free-form"), (Pair, "prefixItems")):
        with pytest.raises(ValueError, match=message):
            of(model)


def test_more_than_one_gpu_for_the_built_in_engine_is_refused_by_name() -> None:
    """The API server's part is in tests/control_plane/test_crds.py: it alone evaluates the rule."""
    engine = crds.schema_of(InferenceService)["properties"]["spec"]["properties"]["engine"]
    rules = (each for each in engine["x-kubernetes-validations"] if each.get("fieldPath") == ".gpus")
    (found,) = (each for each in rules if "self.gpus <= 1" in each["rule"])
    assert (
        found["rule"]
        == "self.gpus <= 1 || self.type in ['vllm', 'custom'] || (self.type == 'auto' && !has(self.image))"
    )  # both have defaults: they are always there
    assert {"default"} <= engine["properties"]["type"].keys() & engine["properties"]["gpus"].keys()
    assert "needs engine.type vllm" in found["message"]


def test_the_chart_checks_the_default_of_acceptance_like_the_field() -> None:
    """Without what JSON Schema has no word for: descriptions, defaults and CEL rules."""

    def plain(node: dict[str, Any]) -> dict[str, Any]:
        left_out = {"description", "default", "format", crds.RULES}
        result = {key: value for key, value in node.items() if key not in left_out}
        if "properties" in node:
            fields = {name: plain(each) for name, each in node["properties"].items()}
            result |= {"properties": fields, "additionalProperties": False}
        return result | ({"items": plain(node["items"])} if "items" in node else {})

    field = crds.schema_of(InferenceService)["properties"]["spec"]["properties"]["acceptance"]
    values = json.loads((ROOT / "charts/driftloop/values.schema.json").read_text())["properties"]["acceptance"]
    misplaced = values["properties"]["suites"]["items"].pop("allOf")
    assert values == plain(field)
    assert {each["if"]["required"][0] for each in misplaced} == {"maxDelta", "minGain", "minimum", "onlyBesideStable"}

import json
from typing import Any

import pytest

from driftloop_trainer.metrics.structured import BadSchema, Structure

SCHEMA = {"type": "object", "required": ["intent"], "properties": {"total": {"type": "number"}}}
ORDER = '{"intent": "refund", "total": 12.5, "customer": {"id": 7, "names": ["A", "B"]}}'


def score(expected: str, answer: str, fields: list[str] | None = None, schema: dict[str, Any] | None = None) -> float:
    return Structure(schema, fields).score(expected, answer)


@pytest.mark.parametrize(
    ("answer", "fields", "expected"),
    [
        (ORDER, None, 1.0),
        (f"Here it is:\n```json\n{ORDER}\n```\nAnything else?", None, 1.0),
        (f"Here it is: {ORDER}", None, 0.0),  # not only JSON
        ('{"intent": "refund", "total": 13, "customer": {}}', None, pytest.approx(1 / 3)),
        ('{"intent": " refund ", "total": 12.50}', ["intent", "total"], 1.0),
        ('{"customer": {"names": ["A", "C"]}}', ["customer.names.0", "customer.names.1", "customer.id"], 1 / 3),
        ('{"customer": null}', ["customer.id"], 0.0),
        ("[]", ["intent"], 0.0),
        ("", None, 0.0),
        ("{", None, 0.0),
        ('{"intent": NaN}', None, 0.0),
        ("[" * 100_000, None, 0.0),
    ],
)
def test_the_share_of_fields_that_are_equal(answer: str, fields: list[str] | None, expected: float) -> None:
    assert score(ORDER, answer, fields) == expected


@pytest.mark.parametrize(
    ("expected", "answer", "equal"),
    [
        ("1", "1.0", 1.0),
        ("true", "1", 0.0),
        ("[1, 2]", "[1]", 0.0),
        ('{"a": 1}', '{"a": 1, "b": 2}', 1.0),
        ("{}", "{}", 1.0),
    ],
)
def test_values_are_equal_as_in_json(expected: str, answer: str, equal: float) -> None:
    assert score(expected, answer) == equal


@pytest.mark.parametrize(
    ("answer", "expected"), [('{"intent": "x"}', 1.0), ('{"total": 1}', 0.0), ('{"intent": 1, "total": "1"}', 0.0)]
)
def test_without_fields_to_compare_only_validity_counts(answer: str, expected: float) -> None:
    assert score("anything", answer, [], SCHEMA) == expected


def test_an_invalid_answer_has_no_right_field() -> None:
    assert score(ORDER, '{"intent": "refund", "total": "12.5"}', ["intent"], SCHEMA) == 0.0


@pytest.mark.parametrize(
    ("completion", "fields", "fault"),
    [
        ("refund", None, "the completion is not JSON"),
        ('{"total": 1}', ["total"], "is not valid against metric.schema"),
        ('{"intent": "x"}', ["customer.id"], "has no field 'customer.id'"),
        ("refund", [], None),
        (ORDER, ["customer.id"], None),
    ],
)
def test_a_completion_that_no_answer_could_equal_is_named(
    completion: str, fields: list[str] | None, fault: str | None
) -> None:
    found = Structure(SCHEMA, fields).fault(completion)
    assert (found is None) if fault is None else (found is not None and fault in found)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, "is not a JSON Schema"),
        ({"pattern": "(a"}, "is not a JSON Schema"),
        ({"$ref": "https://schemas.example.org/order.json"}, "other documents are not read"),
        ({"properties": {"a": {"$ref": "#/$defs/gone"}}}, "has no '#/\\$defs/gone'"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSchema, match=message):
        Structure(schema, None)


def test_a_schema_may_refer_to_itself() -> None:
    schema = {
        "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        "$ref": "#/$defs/node",
    }
    nested: dict[str, Any] = {}
    for _ in range(20):
        nested = {"next": nested}
    assert score("{}", json.dumps(nested), [], schema) == 1.0

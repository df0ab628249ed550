"""Quantities are what the core API takes, as text or as an integer."""

import re

import pytest
from pydantic import TypeAdapter, ValidationError

from driftloop.api.base import Quantity
from driftloop.controller.vocabulary.quantity import quantity

ADAPTER: TypeAdapter[str] = TypeAdapter(Quantity)


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("1", 1),
        (4, 4),
        ("1500m", 1),
        ("1.5Gi", 3 << 29),
        (".5Gi", 1 << 29),
        ("2G", 2 * 10**9),
        ("512Mi", 512 << 20),
        ("1e9", 10**9),
        ("1E9", 10**9),
        ("2P", 2 * 10**15),
        ("1Ei", 1 << 60),
        ("7u", 0),
    ],
)
def test_quantities_are_read_as_kubernetes_does(given: str | int, value: int) -> None:
    assert quantity(ADAPTER.validate_python(given)) == value


@pytest.mark.parametrize("given", ["", "four", "-1", "1.2.3", "1e", "1e1.5", "80GiB", True, 1.5, None])
def test_what_is_no_quantity_is_refused(given: object) -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(given)


def test_the_schema_lets_the_api_server_take_integers_and_the_same_texts() -> None:
    schema = ADAPTER.json_schema()
    assert schema["x-kubernetes-int-or-string"] is True
    assert "type" not in schema
    assert re.match(schema["pattern"], "80Gi")
    assert not re.match(schema["pattern"], "80GiB")

"""A client gets the adapter, never the base that the engine also serves."""

import json
from typing import Any

import pytest

from driftloop_server.openai_api import ApiError
from driftloop_server.proxy.names import Names

ADAPTER = Names("desk", "desk-0a1b2c3d")
BASE_CARD = {"id": "BASE", "object": "model", "max_model_len": 4096}
CARD = {"id": "desk-0a1b2c3d", "object": "model", "parent": "BASE", "max_model_len": None}


@pytest.mark.parametrize("model", [{}, {"model": None}, {"model": ""}, {"model": "desk"}], ids=str)
def test_a_request_gets_the_adapters_name(model: dict[str, Any]) -> None:
    body = ADAPTER.addressed(model | {"prompt": "東京 🙂", "n": 2})
    assert json.loads(body) == {"prompt": "東京 🙂", "n": 2, "model": "desk-0a1b2c3d"}
    assert "東京".encode() in body


@pytest.mark.parametrize("model", ["BASE", "gpt", "desk-0a1b2c3d", 7, ["desk"]])
def test_another_model_is_refused(model: Any) -> None:
    with pytest.raises(ApiError, match="is not served here, only 'desk'") as caught:
        ADAPTER.addressed({"model": model})
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def test_clients_see_one_model_with_the_context_of_its_base() -> None:
    assert ADAPTER.cards([BASE_CARD, CARD]) == [BASE_CARD | {"id": "desk"}]
    assert ADAPTER.cards([BASE_CARD]) == []  # its adapter is not loaded


def test_one_name_changes_nothing() -> None:
    same = Names("desk", "desk")
    assert not same.differ
    cards = [{"id": "desk"}, {"id": "another"}]
    assert same.cards(cards) == cards

"""The Event object."""

from datetime import UTC, datetime
from typing import Any

from driftloop.controller.runtime.kube.events import event_object
from driftloop.controller.vocabulary.plan import Event

OBJ: Any = {
    "apiVersion": "driftloop.dev/v1alpha1",
    "kind": "FineTuneJob",
    "metadata": {"name": "a", "namespace": "ns", "uid": "1"},
}


def name(event: Event, uid: str = "1", second: int = 0) -> str:
    obj = OBJ | {"metadata": OBJ["metadata"] | {"uid": uid}}
    return str(event_object(obj, event, datetime(2026, 1, 1, second=second, tzinfo=UTC), "me")["metadata"]["name"])


def test_the_same_event_has_the_same_name_whenever_it_is_told() -> None:
    event = Event("Normal", "Done", "done")
    assert name(event) == name(event, second=30)
    assert len({name(event), name(event, uid="2"), name(Event("Warning", "Done", "done"))}) == 3


def test_a_long_message_is_cut_to_what_the_api_takes() -> None:
    found = event_object(OBJ, Event("Normal", "Long", "x" * 5000), datetime(2026, 1, 1, tzinfo=UTC), "me")
    assert len(found["note"]) == 1024

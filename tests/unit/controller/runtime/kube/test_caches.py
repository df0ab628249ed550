"""The caches against stale, doubled and lost events."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from driftloop.controller.runtime.kube.caches import Caches, matching


def obj(name: str = "a", revision: int = 1, uid: str = "", kind: str = "Job", owner: str = "", **labels: str) -> Any:
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": "ns",
        "uid": uid or f"uid-{name}",
        "resourceVersion": str(revision),
        "labels": labels,
        "managedFields": [{"manager": "x"}],
    }
    if owner:
        metadata["ownerReferences"] = [{"uid": owner, "controller": True}]
    return {"apiVersion": "v1", "kind": kind, "metadata": metadata}


def revision(caches: Caches, name: str = "a") -> str | None:
    found = caches.get("Job", "ns", name)
    return found["metadata"]["resourceVersion"] if found else None


@given(st.permutations([1, 2, 3, 10]))
def test_the_newest_stays_in_whatever_order_they_come(order: list[int]) -> None:
    caches = Caches()
    for each in order:
        caches.put(obj(revision=each))
    assert revision(caches) == "10"


def test_the_same_again_is_no_news() -> None:
    caches = Caches()
    assert caches.put(obj(revision=5))
    assert not caches.put(obj(revision=5))
    assert caches.put(obj(revision=6))


def test_a_late_event_does_not_bring_a_deleted_object_back() -> None:
    caches = Caches()
    caches.put(obj())
    assert caches.remove(obj())
    assert not caches.put(obj())
    assert revision(caches) is None
    assert caches.put(obj(uid="another", revision=10))


def test_an_object_that_lost_our_label_comes_back_with_it() -> None:
    caches = Caches()
    caches.put(obj())
    assert caches.remove(obj(revision=5))  # a watch by label tells of it as of a deletion
    assert not caches.put(obj(revision=4))
    assert caches.put(obj(revision=6))


def test_deleting_the_old_object_leaves_the_new_one_of_that_name() -> None:
    caches = Caches()
    caches.put(obj(uid="old"))
    caches.put(obj(uid="new", revision=2))
    assert not caches.remove(obj(uid="old"))
    assert revision(caches) == "2"


def test_owned_follows_the_owner_and_its_changes() -> None:
    caches = Caches()
    caches.put(obj("b", owner="parent"))
    caches.put(obj("a", owner="parent"))
    assert [each["metadata"]["name"] for each in caches.owned("Job", "ns", "parent")] == ["a", "b"]
    caches.put(obj("a", revision=2, owner="other"))
    assert [each["metadata"]["name"] for each in caches.owned("Job", "ns", "parent")] == ["b"]
    caches.remove(obj("b", owner="parent"))
    assert caches.owned("Job", "ns", "parent") == []


def test_what_a_list_no_longer_shows_is_a_ghost_unless_it_is_younger() -> None:
    caches = Caches()
    for name, version in (("kept", 1), ("ghost", 2), ("young", 9)):
        caches.put(obj(name, revision=version))
    ghosts = caches.ghosts("Job", "ns", ["uid-kept"], "5")
    assert [each["metadata"]["name"] for each in ghosts] == ["ghost"]


def test_managed_fields_are_kept_of_what_is_applied_only() -> None:
    caches = Caches()
    caches.put(obj("job"))
    caches.put(obj("web", kind="Service"))
    assert "managedFields" not in (caches.get("Job", "ns", "job") or {})["metadata"]
    assert "managedFields" in (caches.get("Service", "ns", "web") or {})["metadata"]


def test_labels_select_those_that_carry_all_of_them() -> None:
    objects = [obj("a", x="1", y="2"), obj("b", x="1")]
    assert [each["metadata"]["name"] for each in matching(objects, {"x": "1", "y": "2"})] == ["a"]
    assert len(matching(objects, None)) == 2

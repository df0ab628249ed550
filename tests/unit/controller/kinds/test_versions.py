"""Questions about versions are answered by what is there, and what doesn't parse answers nothing."""

from typing import Any

from driftloop.controller.kinds import versions
from unit.controller.stages import approved, deployment, service, version

DESK = service()


def test_the_last_approved_is_the_one_created_last_whatever_came_after_unjudged() -> None:
    found = [
        approved(version("a", created="2026-01-01T10:00:00Z")),
        approved(version("b", created="2026-01-01T11:00:00Z")),
        version("c", created="2026-01-01T12:00:00Z"),
        approved(version("d", created="2026-01-01T13:00:00Z", family="other")),
    ]
    assert versions.to_start_from(found, "support") == found[1]
    assert versions.to_start_from(found[2:], "support") is None


def test_training_starts_from_what_awaits_approval_only_where_nothing_is_approved() -> None:
    waits = version("b", created="2026-01-01T11:00:00Z") | {"status": {"phase": "AwaitingApproval"}}
    good = approved(version("a", created="2026-01-01T10:00:00Z"))
    assert versions.to_start_from([good, waits], "support") == good
    assert versions.to_start_from([waits], "support") == waits


def test_of_two_of_the_same_second_the_name_decides() -> None:
    found = [approved(version("b")), approved(version("a"))]
    assert versions.to_start_from(found, "support") == found[0]


def test_objects_that_do_not_parse_are_passed_over() -> None:
    odd: list[dict[str, Any]] = [
        {"metadata": {"name": "x"}},
        {"metadata": {"name": "y"}, "spec": {"family": 3}, "status": {"phase": 4}},
    ]
    assert versions.to_start_from([*odd, approved(version("a"))], "support") == approved(version("a"))
    assert not versions.follows({"metadata": {}}, "support")


def test_the_stable_version_is_read_from_deployments_that_the_service_owns() -> None:
    foreign = deployment(service("other"), "x")
    mine = deployment(DESK, "a")
    assert versions.stable_version(DESK, [foreign, deployment(DESK, "b", role="candidate"), mine]) == "a"
    assert versions.stable_version(DESK, [foreign]) is None


def test_services_of_a_version_are_those_with_a_deployment_of_it() -> None:
    found = [deployment(service("b"), "a"), deployment(service("a"), "a"), deployment(service("c"), "other")]
    assert versions.services_of("a", found) == ["a", "b"]


def test_a_version_that_was_rolled_back_is_used_by_nobody() -> None:
    """Its Deployment stays, without pods, as the memory of the failure: deleting the version must be allowed."""
    memory = deployment(DESK, "a", role="failed") | {"spec": {"replicas": 0}, "status": {}}
    assert versions.services_of("a", [memory]) == []
    draining = memory | {"status": {"replicas": 1}}
    assert versions.services_of("a", [draining]) == ["desk"]
    assert versions.services_of("a", [memory, deployment(service("other"), "a", role="candidate")]) == ["other"]


def test_a_version_is_at_work_as_stable_or_candidate() -> None:
    assert versions.at_work("a", [deployment(DESK, "a", role="candidate")])
    assert not versions.at_work("a", [deployment(DESK, "a", role="failed"), deployment(DESK, "b")])

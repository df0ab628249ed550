"""The rules of an HTTPRoute: who goes to which arm."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.gateway import GatewayRef
from driftloop.controller.kinds.inferenceservice.route import http_route
from parts import examples
from unit.controller.kinds.inferenceservice.builders import SETTINGS, service

GATEWAY = GatewayRef(name="public", hostnames=["desk.example.org"])
SPEC = {"gateway": {"name": "public"}}


def route(weight: int) -> Any:
    return http_route(service(SPEC), GATEWAY, SETTINGS, weight)["spec"]


def arms(weight: int, **headers: str) -> dict[str, int]:
    """The weights of the arms of the first rule that matches, as Gateway API defines it for equal paths."""
    matching: list[tuple[int, int]] = []
    rules = route(weight)["rules"]
    for number, rule in enumerate(rules):
        for match in rule["matches"]:
            wanted = {header["name"]: header["value"] for header in match.get("headers", [])}
            if wanted.items() <= headers.items():
                matching.append((-len(wanted), number))
    return {backend["name"]: backend["weight"] for backend in rules[min(matching)[1]]["backendRefs"]}


def test_without_a_candidate_every_request_goes_to_the_service() -> None:
    assert len(route(0)["rules"]) == 1
    assert arms(0) == arms(0, **{"driftloop-version": "candidate"}) == {"desk": 1 * 100}


def test_requests_are_divided_by_weight() -> None:
    assert arms(10) == {"desk": 90, "desk-canary": 10}


def test_a_client_may_name_its_arm() -> None:
    assert list(arms(10, **{"driftloop-version": "candidate"})) == ["desk-canary"]
    assert list(arms(10, **{"driftloop-version": "stable"})) == ["desk"]


@examples(100)
@given(bucket=st.integers(0, 99), first=st.integers(1, 99), second=st.integers(1, 99))
def test_a_bucket_has_one_arm_and_stays_with_the_candidate_at_a_larger_weight(
    bucket: int, first: int, second: int
) -> None:
    (lower,), (higher,) = (arms(weight, **{"driftloop-bucket": str(bucket)}) for weight in sorted((first, second)))
    assert lower == ("desk-canary" if bucket < min(first, second) else "desk")
    assert not (lower == "desk-canary" and higher == "desk")


@examples(100)
@given(weight=st.integers(0, 99))
def test_the_limits_of_a_route_are_kept(weight: int) -> None:
    """The CRD allows 16 rules, 64 matches per rule, and 128 matches in all."""
    rules = route(weight)["rules"]
    numbers = [len(rule["matches"]) for rule in rules]
    assert len(rules) <= 16
    assert max(numbers) <= 64
    assert sum(numbers) <= 128
    assert all(backend["weight"] > 0 for rule in rules for backend in rule["backendRefs"])


@pytest.mark.parametrize("weight", [0, 10])
def test_a_long_answer_may_take_the_services_own_limit(weight: int) -> None:
    assert {rule["timeouts"]["request"] for rule in route(weight)["rules"]} == {"3600s"}


def test_the_gateway_and_the_hosts_are_those_of_the_spec() -> None:
    assert route(0)["hostnames"] == ["desk.example.org"]
    assert route(0)["parentRefs"] == [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "public"}]
    other = GatewayRef(name="public", namespace="edge", section_name="https")
    found = http_route(service(SPEC), other, SETTINGS, 0)["spec"]
    assert found["parentRefs"][0] | {"namespace": "edge", "sectionName": "https"} == found["parentRefs"][0]
    assert "hostnames" not in found

"""Who may take the Lease."""

import pytest

from driftloop.controller.process.leader import Election, may_take, new_lease, taken

ELECTION = Election("ns", "lease", "me")


@pytest.mark.parametrize(
    ("spec", "unchanged", "expected"),
    [
        ({}, 0, True),
        ({"holderIdentity": ""}, 0, True),
        ({"holderIdentity": "me", "leaseDurationSeconds": 15}, 0, True),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 14.9, False),
        ({"holderIdentity": "other", "leaseDurationSeconds": 15}, 15.1, True),
    ],
)
def test_a_lease_may_be_taken_when_free_ours_or_over(spec: object, unchanged: float, expected: bool) -> None:
    assert may_take(spec, "me", unchanged) is expected  # type: ignore[arg-type]


def test_renewing_keeps_the_time_it_was_taken_and_taking_counts_a_transition() -> None:
    mine = new_lease(ELECTION)["spec"]
    assert mine["leaseTransitions"] == 0
    renewed = taken(mine, ELECTION)
    assert renewed["acquireTime"] == mine["acquireTime"]
    assert renewed["leaseTransitions"] == 0
    assert taken(mine | {"holderIdentity": "other"}, ELECTION)["leaseTransitions"] == 1


def test_times_that_would_let_two_lead_are_refused() -> None:
    with pytest.raises(ValueError, match="--lease-seconds must be larger"):
        Election("ns", "lease", "me", duration=10, renew_deadline=10)

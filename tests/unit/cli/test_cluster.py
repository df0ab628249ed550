"""How long the commands try again, and what a wrong kubeconfig gives."""

import asyncio
from pathlib import Path

import pytest

from driftloop.cli.cluster import (
    FORBIDDEN_LATER,
    LONGEST_DELAY,
    UNREACHABLE_AT_START,
    UNREACHABLE_LATER,
    Cluster,
    Patience,
    Where,
)
from driftloop.cli.manifests import BadInput
from driftloop.controller.runtime.kube.api import ApiError

UNREACHABLE = ApiError(0, "Unreachable", "connection refused")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def seconds_until_giving_up(patience: Patience, clock: Clock, error: ApiError = UNREACHABLE) -> float:
    start = clock.now
    while True:
        try:
            delay = patience.next_delay(error, "get Job")
        except ApiError:
            return clock.now - start
        assert 0 < delay <= LONGEST_DELAY
        clock.now += delay


def test_a_server_that_never_answered_is_given_up_soon_and_later_much_later() -> None:
    clock = Clock()
    patience = Patience(clock)
    assert UNREACHABLE_AT_START <= seconds_until_giving_up(patience, clock) < UNREACHABLE_AT_START + LONGEST_DELAY
    patience.succeed("get Job")
    assert UNREACHABLE_LATER <= seconds_until_giving_up(patience, clock) < UNREACHABLE_LATER + LONGEST_DELAY


def test_a_right_that_was_there_may_come_back_for_a_short_time() -> None:
    """An API server that has just started refuses what it allows once it has read the roles."""
    clock = Clock()
    patience = Patience(clock)
    forbidden = ApiError(403, "Forbidden", "any")
    assert seconds_until_giving_up(patience, clock, forbidden) == 0
    patience.succeed("get Job")
    assert FORBIDDEN_LATER <= seconds_until_giving_up(patience, clock, forbidden) < FORBIDDEN_LATER + LONGEST_DELAY
    with pytest.raises(ApiError):
        patience.next_delay(forbidden, "watch Job")


@pytest.mark.parametrize("code", [400, 403, 404, 409, 422])
def test_an_answer_that_stays_the_same_is_not_asked_for_again(code: int) -> None:
    with pytest.raises(ApiError):
        Patience().next_delay(ApiError(code, "Any", "any"), "get Job")


@pytest.mark.parametrize("code", [0, 401, 410, 429, 500, 503])
def test_what_may_pass_is_asked_for_again(code: int) -> None:
    assert Patience().next_delay(ApiError(code, "Any", "any"), "get Job") > 0


@pytest.mark.parametrize(
    ("where", "text", "message"),
    [
        (Where(kubeconfig="/nowhere"), "", "kubeconfig /nowhere: no such file"),
        (Where(), "", "no cluster is configured"),
        (Where(context="other"), "contexts: []\nclusters: []\nusers: []\ncurrent-context: a", "kubeconfig .*other"),
        (Where(), "{", "kubeconfig "),
        (Where(), "3", "kubeconfig "),
        (Where(), "contexts: []\nclusters: []\nusers: []", "kubeconfig "),
    ],
)
def test_a_wrong_kubeconfig_is_the_users_mistake(
    where: Where, text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config"
    if text:
        path.write_text(text)
    monkeypatch.setenv("KUBECONFIG", str(path))
    with pytest.raises(BadInput, match=message):
        asyncio.run(Cluster.connect(where))


def test_the_namespace_is_that_of_the_option_or_of_the_context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config"
    path.write_text(
        """
clusters: [{name: c, cluster: {server: "http://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: team}}, {name: y, context: {cluster: c, user: u}}]
current-context: x
"""
    )
    monkeypatch.setenv("KUBECONFIG", str(path))

    async def namespace(where: Where) -> str:
        cluster = await Cluster.connect(where)
        await cluster.close()
        return cluster.namespace

    found = [asyncio.run(namespace(where)) for where in (Where(), Where(namespace="mine"), Where(context="y"))]
    assert found == ["team", "mine", "default"]

"""Whom an API key belongs to, and how many requests it may send."""

import hashlib
import json
import logging
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.proxy.clients import MAX_CLIENTS, RELOAD_SECONDS, Client, Clients, Quota


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def entry(*keys: str, **fields: object) -> str:
    return json.dumps({"sha256": [digest(key) for key in keys]} | fields)


def mounted(folder: Path, version: str, **entries: str) -> None:
    """Write a Secret as the kubelet does: a folder per version, a link to the newest, and a link per entry."""
    content = folder / f"..{version}"
    content.mkdir()
    for name, text in entries.items():
        (content / name).write_text(text)
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    (folder / "..staged").symlink_to(content.name)
    (folder / "..staged").rename(folder / "..data")
    for link in folder.iterdir():
        if not link.name.startswith("..") and not link.exists():
            link.unlink()


def test_each_of_a_clients_keys_leads_to_its_name_and_limit(tmp_path: Path) -> None:
    mounted(tmp_path, "1", team_a=entry("old", "new", requestsPerMinute=60), team_b=entry("other"))
    clients = Clients(tmp_path)
    assert len(clients) == 3
    assert clients.find("old") == clients.find("new") == Client("team_a", 60)
    assert clients.find("other") == Client("team_b")


@pytest.mark.parametrize("key", ["", "unknown", digest("old"), "old ", "\udcff", "OLD"])
def test_no_other_text_is_a_key(tmp_path: Path, key: str) -> None:
    mounted(tmp_path, "1", team_a=entry("old"))
    assert Clients(tmp_path).find(key) is None


def test_a_changed_secret_counts_without_a_restart_and_a_removed_key_is_refused(tmp_path: Path) -> None:
    mounted(tmp_path, "1", team_a=entry("first"), team_b=entry("leaked"))
    clock = Clock()
    clients = Clients(tmp_path, clock)

    mounted(tmp_path, "2", team_a=entry("first", "second"))
    for path in (tmp_path / "..2").iterdir():
        os.utime(path, ns=(2_000_000_000, 2_000_000_000))
    assert clients.find("leaked"), "it is not read for every request"
    clock.now += RELOAD_SECONDS
    assert clients.find("leaked") is None
    assert clients.find("second") == Client("team_a")


def test_an_empty_or_deleted_secret_lets_nobody_in(tmp_path: Path) -> None:
    mounted(tmp_path, "1", team_a=entry("first"))
    clock = Clock()
    clients = Clients(tmp_path, clock)
    mounted(tmp_path, "2")
    clock.now += RELOAD_SECONDS
    assert clients.find("first") is None
    assert not Clients(tmp_path / "absent")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("my-secret-key", "the entry: Invalid JSON"),
        ('{"sha256": []}', "sha256: List should have at least 1 item"),
        ('{"sha256": ["my-secret-key"]}', "sha256.0: String should match pattern"),
        ('{"requestsPerMinute": 5}', "sha256: Field required"),
        (entry("a", requestsPerMinute=0), "requestsPerMinute: Input should be greater than or equal to 1"),
        (entry("a", requestPerMinute=5), "requestPerMinute: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_entry_is_left_out_and_named_without_its_content(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str, fault: str
) -> None:
    mounted(tmp_path, "1", wrong=text, team_a=entry("first"))
    with caplog.at_level(logging.ERROR):
        clients = Clients(tmp_path)
    assert f"API key wrong is left out: {fault}" in caplog.text
    assert "my-secret-key" not in caplog.text
    assert clients.find("first") == Client("team_a")


def test_of_two_clients_with_one_key_the_first_has_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounted(tmp_path, "1", team_b=entry("same"), team_a=entry("same"))
    assert Clients(tmp_path).find("same") == Client("team_a")
    assert "API key team_b is left out: team_a has the same" in caplog.text


def test_no_more_clients_are_read_than_a_bound(tmp_path: Path) -> None:
    mounted(tmp_path, "1", **{f"client-{n:05}": entry(str(n)) for n in range(MAX_CLIENTS + 1)})
    assert len(Clients(tmp_path)) == MAX_CLIENTS


def test_a_client_may_send_a_minutes_requests_at_once_and_then_one_after_another() -> None:
    clock, client = Clock(), Client("team_a", 3)
    quota = Quota(clock)
    assert [quota.wait(client) for _ in range(4)] == [0, 0, 0, pytest.approx(20)]
    clock.now += 19
    assert quota.wait(client) == pytest.approx(1)
    clock.now += 1
    assert [quota.wait(client), quota.wait(client)] == [0, pytest.approx(20)]
    assert quota.wait(Client("team_b", 3)) == 0, "clients don't share a bucket"


def test_a_client_without_a_limit_never_waits() -> None:
    quota = Quota(Clock())
    assert {quota.wait(Client("team_a")) for _ in range(1000)} == {0}


@given(limit=st.integers(1, 600), pauses=st.lists(st.floats(0, 90), max_size=60))
def test_in_no_minute_passes_more_than_twice_the_limit(limit: int, pauses: list[float]) -> None:
    clock, client = Clock(), Client("team_a", limit)
    quota, passed = Quota(clock), []
    for pause in pauses:
        clock.now += pause
        for _ in range(limit):
            if not quota.wait(client):
                passed.append(clock.now)
    for at in passed:
        assert sum(at <= other < at + 60 for other in passed) <= 2 * limit

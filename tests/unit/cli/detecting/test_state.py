"""The file of --state: what is in it, who may read it, and which files are refused."""

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.cli.detecting.state import State, fingerprint, locked, read, shares_of, write
from driftloop.cli.manifests import BadInput


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


def test_a_state_is_read_as_it_was_written_and_by_its_owner_alone(file: Path) -> None:
    state = State(source="requests", last=[(1, None), (2, 3)])
    write(file, state)
    assert read(file, "requests") == state
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_without_a_file_it_is_a_new_one(file: Path) -> None:
    assert read(file, "requests").profile is None
    assert read(file, "requests").key != read(file, "requests").key


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "is not a state of this command"),
        ("[]", "is not a state of this command"),
        ('{"source": "requests", "key": "' + "0" * 32 + '", "text": 1}', "is not a state of this command"),
        ('{"source": "requests", "profile": {"version": 1}}', "is not a state of this command"),
        ('{"source": "requests", "version": 9}', "is of another release"),
        ('{"source": "service x"}', "is about service x, not requests"),
    ],
)
def test_another_file_is_refused(file: Path, content: str, told: str) -> None:
    file.write_text(content)
    with pytest.raises(BadInput, match=told):
        read(file, "requests")


def test_two_runs_do_not_write_one_state(file: Path) -> None:
    with locked(file), pytest.raises(BadInput, match="in use by another run"), locked(file):
        pass
    with locked(file):
        pass


def test_shares_go_on_and_hold_no_text(file: Path) -> None:
    state = State(source="requests")
    shares = shares_of(state)
    for number in range(20):
        shares.admits(f"my secret {number % 2}", f"user {number}")
    again = State.model_validate(json.loads(state.model_copy(update={"last": shares.last}).model_dump_json()))
    assert "secret" not in again.model_dump_json()
    assert shares_of(again).last == shares.last


@given(st.text())
def test_a_fingerprint_has_16_bits_and_depends_on_the_key(text: str) -> None:
    one, other = fingerprint("0" * 32), fingerprint("1" * 32)
    assert 0 <= one(text) < 1 << 16
    assert one(text) == one(text)
    assert [one(str(n)) for n in range(9)] != [other(str(n)) for n in range(9)]

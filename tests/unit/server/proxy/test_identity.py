"""Response ids: what one pod signs every pod of the service can read, and nobody else can write."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.proxy.identity import Forged, ResponseId, Signer

names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,60}[a-z0-9])?", fullmatch=True)
keys = st.binary(min_size=16, max_size=64)


@given(key=keys, uid=names, version=names, revision=names, prompt=st.binary(min_size=16, max_size=16))
def test_another_pod_reads_what_was_signed(key: bytes, uid: str, version: str, revision: str, prompt: bytes) -> None:
    identity = Signer(key, uid).sign(version, revision, prompt, now=1_800_000_000.9)
    assert Signer(key, uid).read(identity) == ResponseId(version, revision, 1_800_000_000, prompt)
    assert len(identity) < 300


@given(position=st.integers(0, 200), character=st.sampled_from("A0_-.=é "))
def test_no_character_can_be_changed(position: int, character: str) -> None:
    signer = Signer(b"k" * 32, "uid")
    identity = signer.sign("version", "revision", b"p" * 16, now=1_800_000_000)
    position %= len(identity)
    changed = identity[:position] + character + identity[position + 1 :]
    try:
        read = signer.read(changed)
    except Forged:
        return
    # The last character of base64 has bits that carry nothing: another spelling of the same id.
    assert read == signer.read(identity)


@pytest.mark.parametrize(("key", "uid"), [(b"other key, other key", "uid"), (b"k" * 32, "other-uid")])
def test_ids_of_another_service_are_forged(key: bytes, uid: str) -> None:
    identity = Signer(key, uid).sign("v", "r", b"p" * 16, now=1)
    with pytest.raises(Forged):
        Signer(b"k" * 32, "uid").read(identity)


@given(st.text(max_size=600))
def test_any_text_is_read_or_forged(text: str) -> None:
    with pytest.raises(Forged):
        Signer(b"k" * 32, "uid").read(text)


def test_a_pseudonym_is_the_same_in_every_pod_and_another_in_every_service() -> None:
    found = Signer(b"k" * 32, "uid").pseudonym("ada")
    assert found == Signer(b"k" * 32, "uid").pseudonym("ada")
    assert found != Signer(b"k" * 32, "other").pseudonym("ada")
    assert "ada" not in found

"""Text a token at a time is the text of all tokens; a stop cuts it wherever it is split."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.engine.decoding import MAX_HELD, StopText, TokenText

texts = st.text(alphabet="ab é東🙂", max_size=40)


def decode(tokens: Sequence[int]) -> str:
    """A byte-level tokenizer: a token is a byte."""
    return bytes(tokens).decode(errors="replace")


def in_pieces(text: str, sizes: list[int]) -> list[str]:
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


@given(prompt=texts, text=texts)
def test_pieces_add_up_to_the_text_and_hold_no_half_character(prompt: str, text: str) -> None:
    growing = TokenText(decode, prompt.encode())
    pieces = [growing.push(token) for token in text.encode()]
    assert "".join(pieces) == text
    assert growing.flush() == ""


def test_half_a_character_at_the_end_is_not_swallowed() -> None:
    growing = TokenText(decode)
    assert [growing.push(token) for token in "a東".encode()[:3]] == ["a", "", ""]
    assert growing.flush() == "\ufffd"


@given(st.lists(st.sampled_from([0xFF, 0x80, 0xF0, 0x9F, 0x61]), min_size=200, max_size=200))
def test_bytes_that_are_no_text_are_not_decoded_again_and_again(answer: list[int]) -> None:
    most = 0

    def counted(tokens: Sequence[int]) -> str:
        nonlocal most
        most = max(most, len(tokens))
        return decode(tokens)

    growing = TokenText(counted)
    assert len("".join(map(growing.push, answer)) + growing.flush()) >= answer.count(0x61)
    assert most <= 2 * MAX_HELD


def test_the_first_token_keeps_the_space_that_a_tokenizer_drops_at_a_texts_start() -> None:
    words = {1: " my", 2: " card"}
    growing = TokenText(lambda tokens: "".join(words[token] for token in tokens).removeprefix(" "), [1])
    assert growing.push(2) == " card"


@given(
    text=texts,
    stops=st.lists(st.text(alphabet="ab é", min_size=1, max_size=3), max_size=3),
    sizes=st.lists(st.integers(0, 4), max_size=20),
)
def test_the_text_ends_before_the_first_stop_however_it_is_cut(text: str, stops: list[str], sizes: list[int]) -> None:
    cutter = StopText(stops)
    released, stopped = "", False
    for piece in in_pieces(text, sizes):
        new, stopped = cutter.push(piece)
        released += new
        assert not any(stop in released for stop in stops)
        if stopped:
            break
    released += "" if stopped else cutter.flush()
    found = [text.index(stop) for stop in stops if stop in text]
    assert stopped == bool(found)
    if found and len(sizes) == 0:
        assert released == text[: min(found)]
    assert text.startswith(released)
    if not found:
        assert released == text


def test_only_what_may_become_a_stop_is_held_back() -> None:
    cutter = StopText(["\nUser:"])
    assert cutter.push("Hello\nUs") == ("Hello", False)
    assert cutter.push("ual") == ("\nUsual", False)
    assert cutter.push("\nUser: x") == ("", True)

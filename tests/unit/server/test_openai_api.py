"""Bodies of requests: JSON of Unicode texts, or a 400 that says where it isn't."""

import contextlib
import gc
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.openai_api import MAX_MESSAGE, MAX_SEARCHED, ApiError, error_body, is_unicode, parse_json

DOCUMENT = {"prompt": "naïve 東京 🙂 \\ud83d", "stop": ["🙂"]}
HALF = "\ud83d"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("escaped", [False, True])
def test_json_may_come_in_any_encoding_of_unicode(encoding: str, escaped: bool) -> None:
    assert parse_json(json.dumps(DOCUMENT, ensure_ascii=escaped).encode(encoding)) == DOCUMENT


@pytest.mark.parametrize(
    ("document", "place", "at"),
    [
        ({"prompt": f"ab{HALF}"}, "prompt", 2),
        ({"prompt": "\udc00"}, "prompt", 0),
        ({"stop": ["a", HALF]}, "stop.1", 0),
        ({"user": HALF}, "user", 0),
        ({"model": HALF}, "model", 0),
        ({"messages": [{"role": "user", "content": f"🙂{HALF}x"}]}, "messages.0.content", 1),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": HALF}]}]}, "messages.0.content.0.text", 0),
        ({"metadata": {HALF: "x"}}, r"metadata.\ud83d", 0),
        ({HALF: 1}, r"\ud83d", 0),
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_half_of_a_character_is_refused_with_its_place(document: Any, place: str, at: int, escaped: bool) -> None:
    body = json.dumps(document, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert caught.value.status == 400
    assert caught.value.message.startswith(f"{place}: not valid Unicode: half of a surrogate pair, U+D")
    assert f"at character {at}:" in caught.value.message
    assert caught.value.param == place.split(".")[0]
    json.dumps(error_body(400, caught.value.message, caught.value.param), ensure_ascii=False).encode()


TEXTS = st.lists(st.sampled_from(["\ud83d", "\ude42", "🙂", "\\", "\\ud83d", "u", '"', "\n", "é", "d83d"])).map("".join)


@given(text=TEXTS, escaped=st.booleans(), encoding=st.sampled_from(["utf-8", "utf-16", "utf-32-be"]))
def test_what_is_no_unicode_is_known_without_being_built(text: str, escaped: bool, encoding: str) -> None:
    body = json.dumps({"prompt": [text, {text: 1}]}, ensure_ascii=escaped).encode(encoding, "surrogatepass")
    try:
        parse_json(body)
    except ApiError:
        assert not is_unicode(body)
    else:
        assert is_unicode(body)


def test_a_long_body_is_judged_without_being_built(monkeypatch: pytest.MonkeyPatch) -> None:
    long = b'{"prompt":"\\ud83d\\ude42","l":[' + b",".join([b"[]"] * MAX_SEARCHED) + b"]"
    monkeypatch.delattr(json, "loads")
    assert is_unicode(long + b"}")
    with pytest.raises(ApiError, match=r"the body: not valid Unicode: .*, at character 786471:") as caught:
        parse_json(long + b',"stop":"\\ud83d"}')
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, None, "invalid_unicode")


def test_a_deep_place_is_found_without_a_name_for_each_of_its_neighbours() -> None:
    depth, name = 300, b"k" * 100
    body = (b'{"' + name + b'":') * depth + b"[" + b"0," * 5000 + b'"\\ud83d"]' + b"}" * depth
    tracemalloc.start()
    with pytest.raises(ApiError, match=r"^kkk"):
        parse_json(body)
    assert tracemalloc.get_traced_memory()[1] < 10 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b'{"a": "\x00"}', b'{"a": "\xff"}',
     b'{"a": 1' + b"0" * 5000 + b"}", "{}".encode("utf-16")[:-1]],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


@pytest.mark.parametrize("end", [b"]}", b""], ids=["read", "refused"])
def test_nothing_looks_for_garbage_while_a_body_is_read(end: bytes) -> None:
    collections: list[str] = []

    def note(phase: str, _: object) -> None:
        collections.append(phase)

    gc.collect()
    gc.callbacks.append(note)
    with contextlib.suppress(ApiError):
        parse_json(b'{"l":[' + b",".join([b"[]"] * 100_000) + end)
    gc.callbacks.remove(note)
    assert len(collections) <= 2  # one, of what is left when it has been read
    assert gc.isenabled()


def test_of_equal_keys_the_last_one_counts_and_nul_is_a_character() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json(b'{"a": "x\\u0000y"}') == {"a": "x\0y"}


def test_an_error_never_gives_megabytes_back() -> None:
    assert len(error_body(400, "x" * 5_000_000)["error"]["message"]) <= MAX_MESSAGE + 1

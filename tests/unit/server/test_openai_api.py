"""Bodies of requests: JSON of Unicode texts, or a 400 that says where it isn't."""

import json
from typing import Any

import pytest

from driftloop_server.openai_api import MAX_MESSAGE, ApiError, error_body, parse_json

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
    assert caught.value.message.startswith(f"{place}: not Unicode: half of a surrogate pair, U+D")
    assert f"at character {at}:" in caught.value.message
    assert caught.value.param == place.split(".")[0]
    json.dumps(error_body(400, caught.value.message, caught.value.param), ensure_ascii=False).encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[1]", b"null", b'"x"', b"[" * 100_000, b'{"a":' * 100_000, b'{"a": "\x00"}', b'{"a": "\xff"}',
     b'{"a": 1' + b"0" * 5000 + b"}", "{}".encode("utf-16")[:-1]],
)  # fmt: skip
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parse_json(body)
    assert (caught.value.status, caught.value.code) == (400, "invalid_json")


def test_of_equal_keys_the_last_one_counts_and_nul_is_a_character() -> None:
    assert parse_json(b'{"a": 1, "a": 2}') == {"a": 2}
    assert parse_json(b'{"a": "x\\u0000y"}') == {"a": "x\0y"}


def test_an_error_never_gives_megabytes_back() -> None:
    assert len(error_body(400, "x" * 5_000_000)["error"]["message"]) <= MAX_MESSAGE + 1

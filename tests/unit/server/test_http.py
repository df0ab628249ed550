"""Requests byte by byte, as no client library would send them, to the proxy before the real engine."""

import gzip
import json
import socket
import zlib
from contextlib import suppress
from typing import Any

import pytest

from unit.server.processes import Process

BODY = json.dumps({"model": "desk", "prompt": "my card", "temperature": 0, "max_tokens": 3}).encode()
DEEP = b"[" * 900 + b"]" * 900


def request(
    body: bytes = BODY, *headers: str, path: str = "/v1/completions", version: str = "1.1", method: str = "POST",
    length: bool = True,
) -> bytes:  # fmt: skip
    lines = [f"{method} {path} HTTP/{version}", "Host: desk", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def chunked(body: bytes, size: int = 10) -> bytes:
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def chat(messages: bytes) -> bytes:
    return request(b'{"messages":' + messages + b"}", path="/v1/chat/completions")


def exchange(port: int, sent: bytes) -> tuple[int, dict[str, Any]]:
    """Status and JSON of the last answer: before it may stand `100 Continue`."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        # Not half closed afterwards: that is a client gone. An answer may come, and the end, before all is sent.
        with suppress(ConnectionError):
            connection.sendall(sent)
        received = b""
        with suppress(ConnectionError):
            while block := connection.recv(1 << 16):
                received += block
    received = received.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split(b" ")[1]), json.loads(body)


ANSWERED = {
    "plain": request(),
    "HTTP/1.0": request(version="1.0"),
    "gzip": request(gzip.compress(BODY), "Content-Encoding: gzip"),
    "deflate": request(zlib.compress(BODY), "Content-Encoding: deflate"),
    "chunked": request(chunked(BODY), "Transfer-Encoding: chunked", length=False),
    "chunked gzip": request(
        chunked(gzip.compress(BODY)), "Transfer-Encoding: chunked", "Content-Encoding: gzip", length=False
    ),
    "expect": request(BODY, "Expect: 100-continue"),
    "BOM": request(b"\xef\xbb\xbf" + BODY),
    "UTF-16": request(BODY.decode().encode("utf-16")),
    "UTF-16 without BOM": request(BODY.decode().encode("utf-16-le")),
    "equal keys": request(BODY[:-1] + b', "prompt": "x", "prompt": "my card"}'),
    "no type": request(BODY, "Content-Type: text/plain"),
}


@pytest.mark.parametrize("sent", ANSWERED.values(), ids=ANSWERED)
def test_what_can_be_read_gets_the_same_answer(proxy: Process, sent: bytes) -> None:
    status, answer = exchange(proxy.ports["api"], sent)
    assert status == 200
    assert answer["choices"] == exchange(proxy.ports["api"], request())[1]["choices"]


def test_nul_is_a_character_and_two_halves_are_one(proxy: Process) -> None:
    for prompt in (b"a\\u0000b", b"\\ud83d\\ude00"):
        status, _ = exchange(proxy.ports["api"], request(b'{"prompt":"' + prompt + b'","max_tokens":2}'))
        assert status == 200


REFUSED: dict[str, tuple[bytes, int, str | None]] = {
    "no HTTP": (b"HELLO\r\n\r\n", 400, None),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 60, 400, None),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, None),
    "header without colon": (b"GET /v1/models HTTP/1.1\r\nHost: x\r\nbad header\r\n\r\n", 400, None),
    "long header": (request(b"", f"X: {'a' * 20_000}"), 400, None),
    "two lengths": (request(BODY, "Content-Length: 5"), 400, None),
    "length and chunks": (request(chunked(BODY), "Transfer-Encoding: chunked"), 400, None),
    "length is a word": (request(BODY, "Content-Length: abc", length=False), 400, None),
    "bad chunk": (request(b"zz\r\n" + BODY, "Transfer-Encoding: chunked", length=False), 400, None),
    "broken gzip": (request(BODY, "Content-Encoding: gzip"), 400, None),
    "unknown expectation": (request(BODY, "Expect: tea"), 417, None),
    "gzip bomb": (request(gzip.compress(b" " * (64 << 20)), "Content-Encoding: gzip"), 413, None),
    "5 MiB": (request(b'{"prompt":"' + b"a" * (5 << 20) + b'"}'), 413, None),
    "another path": (request(path="/v1/embeddings"), 404, None),
    "another method": (request(b"", method="GET"), 405, None),
    "preflight": (request(b"", method="OPTIONS"), 405, None),
    "raw NUL": (request(b'{"prompt":"a\0b"}'), 400, None),
    "Latin-1": (request('{"prompt":"café"}'.encode("latin-1")), 400, None),
    "half a character": (request(b'{"prompt":"a\\ud83d"}'), 400, "prompt"),
    "half a character, raw": (request(b'{"prompt":"a\xed\xa0\xbd"}'), 400, "prompt"),
    "half a character to stop at": (request(b'{"prompt":"a","stop":["\\ud83d"]}'), 400, "stop"),
    "half a character as user": (request(b'{"prompt":"a","user":"\\ud83d"}'), 400, "user"),
    "half a character as model": (request(b'{"prompt":"a","model":"\\ud83d"}'), 400, "model"),
    "half a character in a message": (chat(b'[{"role":"user","content":"\\ud83d"}]'), 400, "messages"),
    "not a number": (request(b'{"prompt":"a","temperature":NaN}'), 400, "temperature"),
    "infinite": (request(b'{"prompt":"a","top_p":-Infinity}'), 400, "top_p"),
    "token beyond the vocabulary": (request(b'{"prompt":[1,100000000]}'), 400, "prompt"),
    "negative token": (request(b'{"prompt":[-1]}'), 400, "prompt"),
    "token of 4000 digits": (request(b'{"prompt":[' + b"9" * 4000 + b"]}"), 400, "prompt"),
    "top_k of 400 digits": (request(b'{"prompt":"a","top_k":1' + b"0" * 400 + b"}"), 400, "top_k"),
    "number of 5000 digits": (request(b'{"prompt":"a","top_k":1' + b"0" * 5000 + b"}"), 400, None),
    "nested without end": (request(b'{"prompt":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), 400, None),
    "nested prompt": (request(b'{"prompt":' + DEEP + b"}"), 400, "prompt"),
    "nested role": (chat(b'[{"role":' + DEEP + b',"content":"x"}]'), 400, "messages"),
    "nested text": (chat(b'[{"role":"user","content":[{"type":"text","text":' + DEEP + b"}]}]"), 400, "messages"),
    "50,000 messages": (chat(json.dumps([{"role": "user", "content": "x"}] * 50_000).encode()), 400, "messages"),
    "120,000 parts": (
        chat(json.dumps([{"role": "user", "content": [{"type": "text", "text": ""}] * 120_000}]).encode()),
        400,
        "messages",
    ),
    "a million tokens": (request(b'{"prompt":[' + b"1," * 1_000_000 + b"1]}"), 400, "prompt"),
    "a million prompts": (request(b'{"prompt":[' + b'"",' * 1_000_000 + b'""]}'), 400, "prompt"),
    "a field of megabytes": (request(b'{"prompt":"a","' + b"f" * (3 << 20) + b'":1}'), 400, None),
}


@pytest.mark.parametrize(("sent", "status", "param"), REFUSED.values(), ids=REFUSED)
def test_what_can_not_be_answered_is_refused_in_one_shape(
    proxy: Process, sent: bytes, status: int, param: str | None
) -> None:
    found, answer = exchange(proxy.ports["api"], sent)
    assert found == status
    assert answer.keys() == {"error"}
    assert answer["error"].keys() == {"message", "type", "param", "code"}
    assert answer["error"]["message"]
    assert len(json.dumps(answer)) < 10_000
    if param:
        assert answer["error"]["param"] == param


@pytest.mark.parametrize("depth", [300, 600, 800, 900, 950, 980])
def test_depth_alone_is_no_failure_of_the_server(proxy: Process, depth: int) -> None:
    deep = b"[" * depth + b"]" * depth
    call = b'{"id":"c","type":"function","function":{"name":"f","arguments":{"a":' + deep + b"}}}"
    history = b'[{"role":"user","content":"x"},{"role":"assistant","tool_calls":[' + call + b"]}]"
    sent = [chat(deep), chat(history), request(b'{"prompt":"a","max_tokens":1,"metadata":' + deep + b"}")]
    for each in sent:
        assert exchange(proxy.ports["api"], each)[0] in (200, 400)


def test_half_a_character_in_the_text_of_a_call_is_no_failure_of_the_server(proxy: Process) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\ud83d"}'}}
    history = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    status, answer = exchange(proxy.ports["api"], chat(json.dumps(history).encode()))
    assert (status, answer["error"]["param"]) == (400, "messages")  # the template of this model has no tools


def test_errors_of_the_feedback_port_have_the_same_shape(proxy: Process) -> None:
    for sent, status in (
        (request(b"{}", path="/v1/feedback/"), 401),
        (request(b"{}", path="/v1/feedback"), 401),
        (request(b"{}", path="/v1/other"), 404),
        (b"HELLO\r\n\r\n", 400),
    ):
        found, answer = exchange(proxy.ports["feedback"], sent)
        assert found == status
        assert answer["error"].keys() == {"message", "type", "param", "code"}

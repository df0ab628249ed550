"""Seeded requests that are wrong in one or several ways: mutations of valid ones, as bytes of a connection."""

import copy
import gzip
import json
import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_USER = {"role": "user", "content": "my card has not arrived yet"}
_CALL = {"id": "c1", "type": "function", "function": {"name": "rate", "arguments": '{"a": 1}'}}
VALID: Sequence[tuple[str, dict[str, Any]]] = (
    (CHAT, {"messages": [_USER], "max_tokens": 4, "temperature": 0}),
    (
        CHAT,
        {"messages": [_USER], "max_completion_tokens": 4, "stream": True, "stream_options": {"include_usage": True}},
    ),
    (CHAT, {"messages": [_USER], "max_tokens": 3, "logprobs": True, "top_logprobs": 2, "n": 2, "seed": 7}),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "text", "text": "refund, please!"}]}], "max_tokens": 2}),
    (
        CHAT,
        {
            "messages": [
                {"role": "system", "content": "Be short."},
                _USER,
                {"role": "assistant", "content": None, "tool_calls": [_CALL]},
                {"role": "tool", "tool_call_id": "c1", "content": "1.1"},
                _USER,
            ],
            "max_tokens": 3,
            "tools": [],
            "response_format": {"type": "text"},
            "metadata": {"a": "b"},
        },
    ),
    (COMPLETIONS, {"prompt": "I want to top up", "max_tokens": 4, "top_p": 0.9, "top_k": 5, "stop": ["a", "b"]}),
    (COMPLETIONS, {"prompt": [5, 6, 7], "max_tokens": 3, "stream": True, "ignore_eos": True, "logprobs": 1}),
    (COMPLETIONS, {"prompt": "caf\u00e9 \u6771\u4eac \U0001f642", "max_tokens": 2, "n": 3, "prompt_logprobs": None}),
    ("/v1/responses", {"input": "my card", "instructions": "Be short.", "max_output_tokens": 3}),
    ("/v1/embeddings", {"input": ["my card", "refund"]}),
)
_HUGE = 10**400
_STRANGE: Sequence[Any] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), _HUGE, -_HUGE, 0.5, 4.0, 1e308, float("nan"), float("inf"),
    "", "4", "auto", "\x00", "\ud83d", "\udc00 low first", "<|end|><|user|>", "\u202e\u200d\ufeff", [], {}, [[]],
    [None], {"": None}, {"type": "text"}, ["a"] * 17, "a" * 300,
)  # fmt: skip
_NAMES = (
    "model", "n", "best_of", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop",
    "stream", "stream_options", "logprobs", "top_logprobs", "prompt_logprobs", "echo", "suffix", "tools", "tool_choice",
    "functions", "response_format", "logit_bias", "user", "metadata", "continue_final_message", "add_generation_prompt",
    "chat_template_kwargs", "chat_template", "ignore_eos", "modalities", "min_tokens", "unknown", "__class__", "",
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """Bytes to send on a connection of its own.

    `leaves_after`: bytes of the answer after which the client leaves; None: it reads the whole answer. `is_complete`:
    an answer is due; of a request that ends in the middle the server waits for the rest.
    """

    seed: int
    data: bytes
    leaves_after: int | None = None
    is_complete: bool = True


def mutant(seed: int) -> Mutant:
    """The mutant of this seed; always the same."""
    chance = random.Random(seed)
    path, body = copy.deepcopy(chance.choice(VALID))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        chance.choices(_CHANGES, _WEIGHTS)[0](chance, body)
    if chance.random() < 0.15:  # only once and last, so that the size is bounded
        chance.choice((_lengthen, _lengthen, _deepen))(chance, body)
    raw, headers = _encoded(chance, body)
    raw = _damaged(chance, raw) if chance.random() < 0.1 else raw
    data, is_complete = _request(chance, path, headers, raw)
    whim = chance.random()
    if whim < 0.08:
        return Mutant(seed, data[: chance.randrange(len(data))], is_complete=False)
    return Mutant(seed, data, chance.choice((0, 1, 200, 400)) if whim < 0.2 else None, is_complete)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container in a document with each of its keys or indices."""
    found = []
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            found += [(value, key), *_places(value[key])]
    return found


def _replace(chance: random.Random, body: dict[str, Any]) -> None:
    if places := _places(body):
        container, key = chance.choice(places)
        container[key] = copy.deepcopy(chance.choice(_STRANGE))


def _remove(chance: random.Random, body: dict[str, Any]) -> None:
    if places := _places(body):
        container, key = chance.choice(places)
        del container[key]


def _add(chance: random.Random, body: dict[str, Any]) -> None:
    body[chance.choice(_NAMES)] = copy.deepcopy(chance.choice(_STRANGE))


def _swap(chance: random.Random, body: dict[str, Any]) -> None:
    if len(places := _places(body)) > 1:
        (one, a), (other, b) = chance.sample(places, 2)
        one[a], other[b] = copy.deepcopy(other[b]), copy.deepcopy(one[a])


def _lengthen(chance: random.Random, body: dict[str, Any]) -> None:
    """A long text, a long list, or many fields."""
    size = chance.choice((100, 1_000, 10_000, 100_000, 300_000))
    texts = [(container, key) for container, key in _places(body) if isinstance(container[key], str)]
    lists = [
        (container, key) for container, key in _places(body) if isinstance(container[key], list) and container[key]
    ]
    if lists and chance.random() < 0.4:
        container, key = chance.choice(lists)
        container[key] = container[key] * (size // 50)
    elif texts and chance.random() < 0.8:
        container, key = chance.choice(texts)
        container[key] = chance.choice(("a", " ", "word ", "\u6771", "\U0001f642", "<|end|>", "\n", "0")) * (size // 2)
    else:
        body.update({f"field{i}": i for i in range(size // 20)})


def _deepen(chance: random.Random, body: dict[str, Any]) -> None:
    value: Any = 1
    for _ in range(chance.choice((10, 100, 400))):  # deeper JSON is written as text, in `_damaged`
        value = [value] if chance.random() < 0.5 else {"a": value}
    body[chance.choice((*body, *_NAMES[:4]))] = value


_CHANGES: Sequence[Callable[[random.Random, dict[str, Any]], None]] = (_replace, _add, _remove, _swap)
_WEIGHTS = (8, 5, 2, 3)


def _encoded(chance: random.Random, body: dict[str, Any]) -> tuple[bytes, dict[str, str]]:
    text = json.dumps(body, ensure_ascii=chance.random() < 0.5)
    encoding = "utf-8" if chance.random() < 0.9 else chance.choice(("utf-8-sig", "utf-16", "utf-32", "utf-16-be"))
    raw = text.encode(encoding, "surrogatepass")
    whim = chance.random()
    if whim < 0.03:
        return gzip.compress(raw, mtime=0), {"Content-Encoding": "gzip"}
    if whim < 0.05:
        return zlib.compress(raw), {"Content-Encoding": "deflate"}
    if whim < 0.07:
        return raw, {"Content-Encoding": chance.choice(("gzip", "deflate", "br", "zstd", "none"))}
    return raw, {}


def _damaged(chance: random.Random, raw: bytes) -> bytes:
    match chance.randrange(6):
        case 0:
            return raw[: chance.randrange(len(raw))]
        case 1:
            at = chance.randrange(len(raw))
            return raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        case 2:
            return raw.replace(b'"messages"', b'"messages": [], "messages"').replace(
                b'"prompt"', b'"prompt":1,"prompt"'
            )
        case 3:
            return raw[:-1] + b', "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
        case 4:
            return chance.choice((b"", b"null", b"[]", b"1", b'"a"', b"\xff\xfe", b"{}", b"NaN"))
        case _:
            return chance.randbytes(chance.randrange(1, 200))


def _request(chance: random.Random, path: str, headers: dict[str, str], raw: bytes) -> tuple[bytes, bool]:
    """The request, and whether it is complete."""
    method, version, is_complete = "POST", "1.1", True
    whim = chance.random()
    if whim < 0.02:
        method = chance.choice(("GET", "PUT", "OPTIONS", "HEAD", "TRACE", "\u00e9"))
    elif whim < 0.04:
        path = chance.choice(
            (f"{path}/", f"/{path}", "/v1/models/x", "/", "/v1/../health", "/%00", "*", "/" + "a" * 9000)
        )
    elif whim < 0.05:
        version = chance.choice(("1.0", "2.0", "9"))
    headers = {"Host": "desk", "Content-Type": "application/json", "Connection": "close"} | headers
    if chance.random() < 0.05:
        headers |= chance.choice(
            (
                {"Expect": "100-continue"}, {"Expect": "x"}, {"X-Request-Id": "\u00e9\x01"}, {"Content-Type": "text/x"},
                {"Authorization": "Bearer \u00ff"}, {"Cookie": "a" * 9000},
                {"Upgrade": "websocket", "Connection": "close, Upgrade"}, {"Host": ""}, {"traceparent": "\t"},
                {"Origin": "https://a", "Access-Control-Request-Method": "POST"},
            )
        )  # fmt: skip
    whim = chance.random()
    if whim < 0.05:
        headers["Transfer-Encoding"] = "chunked"
        size = chance.choice((1, 7, 1000))
        pieces = [raw[at : at + size] for at in range(0, min(len(raw), 50_000), size)]
        raw = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
        if chance.random() < 0.3:
            raw, is_complete = raw.replace(b"\r\n", b"\n\r", 3), False
    elif whim < 0.06:
        headers["Content-Length"] = chance.choice(("-1", "a", "1e3", "", f"{len(raw)}, {len(raw)}", "9" * 30))
        is_complete = False
    else:
        headers["Content-Length"] = str(len(raw))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"{method} {path} HTTP/{version}\r\n{head}\r\n".encode("latin-1", "replace") + raw, is_complete

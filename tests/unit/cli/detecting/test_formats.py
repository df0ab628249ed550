"""Lines of each format: what is a request, what is something else, and why a line can't be read."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.cli.detecting.formats import parse
from driftloop.cli.detecting.requests import Other, Request, Requests, Unreadable

TODAY = datetime(2026, 11, 28, 12, tzinfo=UTC)
AT = datetime(2026, 11, 28, 10, tzinfo=UTC)
STAMP = "2026-11-28T10:00:00Z"
NANOSECONDS = str(int(AT.timestamp()) * 10**9)
MESSAGES = [
    {"role": "system", "content": "Be nice"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": [{"type": "text", "text": "where is my card?"}]},
]
CHATML = "<|im_start|>system\nBe nice<|im_end|>\n<|im_start|>user\nwhere's my card?<|im_end|>\n<|im_start|>assistant\n"
NAMES = """time text user messages role content prompt input id specversion type data data_base64 instances inputs
datatype resourceSpans scopeSpans spans attributes key value stringValue arrayValue values kvlistValue events
resourceLogs scopeLogs logRecords spanId timeUnixNano parts tools tool_calls"""
names = st.sampled_from(NAMES.split())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)


def read(document: Any) -> Any:
    return parse(json.dumps(document), TODAY)


def event(data: Any, **fields: Any) -> dict[str, Any]:
    kind = "org.kubeflow.serving.inference.request"
    return {"specversion": "1.0", "type": kind, "id": "e1", "time": STAMP, "data": data} | fields


def attribute(key: str, value: Any) -> dict[str, Any]:
    return {"key": key, "value": value if isinstance(value, dict) else {"stringValue": value}}


def spans(*attributes: dict[str, Any], **fields: Any) -> dict[str, Any]:
    span = {"spanId": "s1", "startTimeUnixNano": NANOSECONDS, "attributes": list(attributes)} | fields
    return {"resourceSpans": [{"scopeSpans": [{"spans": [span]}]}]}


def found(text: str, user: str | None = None, identity: str | None = None) -> Requests:
    return Requests((Request(AT, text, user, identity),))


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"time": STAMP, "text": "hello", "user": "u1"}, found("hello", "u1")),
        ({"timestamp": AT.timestamp(), "prompt": "hello", "id": "7"}, found("hello")),
        ({"time": AT.timestamp() * 1000, "messages": MESSAGES}, found("where is my card?")),
        ({"time": STAMP, "input": [MESSAGES[-1]], "safety_identifier": "a"}, found("where is my card?", "a")),
        (event({"messages": MESSAGES, "user": "u"}), found("where is my card?", "u", "e1")),
        (event(json.dumps({"prompt": "hello"})), found("hello", None, "e1")),
        (event(None, data_base64="eyJwcm9tcHQiOiAiaGVsbG8ifQ=="), found("hello", None, "e1")),
        (
            event({"instances": ["one", "two"]}),
            Requests((Request(AT, "one", None, "e1"), Request(AT, "two", None, "e1 1"))),
        ),
        (event({"inputs": [{"name": "x", "datatype": "BYTES", "data": ["one"]}]}), found("one", None, "e1")),
        (event({"predictions": []}, type="org.kubeflow.serving.inference.response"), Other()),
        (
            spans(
                attribute("gen_ai.operation.name", "chat"),
                attribute(
                    "gen_ai.input.messages",
                    json.dumps([{"role": "user", "parts": [{"type": "text", "content": "hello"}]}]),
                ),
                attribute("user.id", "u1"),
            ),
            found("hello", "u1", "s1"),
        ),
        (
            spans(attribute("gen_ai.prompt.0.role", "system"), attribute("gen_ai.prompt.0.content", "Be nice"))
            | spans(attribute("gen_ai.prompt.1.role", "user"), attribute("gen_ai.prompt.1.content", "hello")),
            found("hello", None, "s1"),
        ),
        (spans(attribute("gen_ai.operation.name", "invoke_agent"), attribute("gen_ai.input.messages", "[]")), Other()),
        (spans(attribute("http.method", "POST")), Other()),
        ({"resourceMetrics": []}, Other()),
    ],
)
def test_a_json_line_is_read_by_its_fields(document: Any, expected: Any) -> None:
    assert read(document) == expected


def test_structured_messages_of_a_log_record_are_read() -> None:
    part = {"kvlistValue": {"values": [attribute("type", "text"), attribute("content", "hello")]}}
    message = {
        "kvlistValue": {
            "values": [attribute("role", "user"), {"key": "parts", "value": {"arrayValue": {"values": [part]}}}]
        }
    }
    record = {
        "observedTimeUnixNano": NANOSECONDS,
        "timeUnixNano": "0",
        "spanId": "s1",
        "attributes": [{"key": "gen_ai.input.messages", "value": {"arrayValue": {"values": [message]}}}],
    }
    assert read({"resourceLogs": [{"scopeLogs": [{"logRecords": [record]}]}]}) == found("hello", None, "s1")


@pytest.mark.parametrize(
    "line",
    [
        # vLLM 0.10 and later, with the prefix of its process; earlier ones; with kubectl logs --timestamps; in colour
        "(APIServer pid=1) DEBUG 11-28 10:00:00 [logger.py:40] Request r1 details: prompt: {}, prompt_token_ids: [1].",
        "INFO 11-28 10:00:00 [logger.py:43] Received request r1: prompt: {}, params: SamplingParams(n=1).",
        "2026-11-28T10:00:00.000000000Z DEBUG 11-28 02:00:00 [logger.py:40] Request r1 details: prompt: {}, p",
        "\x1b[0;36m(APIServer pid=1)\x1b[0;0m DEBUG 11-28 10:00:00 [a/logger.py:40] Request r1 details: prompt: {}, p",
    ],
)
@pytest.mark.parametrize("prompt", ["where's my card?", CHATML])
def test_a_line_of_vllms_log_is_read(line: str, prompt: str) -> None:
    assert parse(line.format(repr(prompt)), TODAY) == found("where's my card?", None, "r1")


@pytest.mark.parametrize(
    "prompt",
    [
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nnow<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<bos><start_of_turn>user\nbefore<end_of_turn>\n<start_of_turn>user\nnow<end_of_turn>\n<start_of_turn>model\n",
        "<s>[INST] before [/INST] yes</s>[INST] now [/INST]",
        "<|user|>\nnow<|end|>\n<|assistant|>\n",
        "<|start|>user<|message|>now<|end|><|start|>assistant",
        "<|im_start|>user\nbefore<|im_end|>\n<|im_start|>user\nnow",
    ],
)
def test_the_last_turn_of_a_rendered_chat_is_its_text(prompt: str) -> None:
    line = f"DEBUG 11-28 10:00:00 [logger.py:40] Request r1 details: prompt: {prompt!r}, prompt_token_ids: None."
    assert parse(line, TODAY) == found("now", None, "r1")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "INFO 11-28 10:00:00 [loggers.py:116] Engine 000: Avg prompt throughput: 1.0 tokens/s",
        "(APIServer pid=1) INFO 11-28 10:00:00 [logger.py:43] Received request r1: params: SamplingParams(n=1).",
        '(APIServer pid=1) INFO:     127.0.0.1:3 - "POST /v1/completions HTTP/1.1" 200 OK',
    ],
)
def test_other_lines_of_vllm_are_no_requests(line: str) -> None:
    assert parse(line, TODAY) == Other()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("hello", "neither a JSON object nor a line of vLLM's log"),
        ('{"text": "x"', "not JSON, or cut off"),
        ('{"level": "info"}', "a JSON object of no known format: it has no text, messages, prompt or input"),
        ('{"text": "x", "time": "soon"}', "the time is neither RFC 3339 nor a number of seconds since 1970"),
        ('{"text": "x", "time": 1e400}', "the time is neither RFC 3339 nor a number of seconds since 1970"),
        ('{"text": "x", "time": 5}', "the time is before the year 2000"),
        ('{"text": "\\ud800", "time": 1e9}', "the text is not valid Unicode"),
        ('{"text": "", "time": 1e9}', "the request has no text"),
        ('{"prompt": [1, 2], "time": 1e9}', "the request has no text that can be read"),
        (json.dumps(event("not JSON")), "the event's data is not JSON"),
        (json.dumps(event([1])), "the event's data is not a JSON object"),
        (json.dumps(event({"instances": [[1.0]]})), "the event has no text"),
        (json.dumps(spans(attribute("gen_ai.input.messages", "["))), "gen_ai.input.messages is not JSON"),
        (json.dumps(spans(attribute("gen_ai.input.messages", "[]"))), "gen_ai.input.messages has no message of a user"),
        ("DEBUG 11-28 10:00:00 [l.py:1] Request r details: prompt: None, x", "the request has no prompt"),
        (
            "DEBUG 11-28 10:00:00 [l.py:1] Request r details: prompt: 'cut",
            "the request has no prompt, or its end is cut",
        ),
        ("DEBUG 13-40 10:00:00 [l.py:1] Request r details: prompt: 'x', ", "the time is not a date"),
        ('{"text": ' + "[" * 100_000, "not JSON, or cut off"),
    ],
)
def test_what_can_not_be_read_has_a_reason(line: str, reason: str) -> None:
    result = parse(line, TODAY)
    assert isinstance(result, Unreadable)
    assert result.reason.startswith(reason)


def test_a_date_without_a_year_is_the_last_one() -> None:
    line = "DEBUG 12-31 23:59:59 [l.py:1] Request r details: prompt: 'x', "
    result = parse(line, datetime(2027, 1, 1, tzinfo=UTC))
    assert isinstance(result, Requests)
    assert result.requests[0].at == datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC)


def test_a_request_never_shows_its_text() -> None:
    assert "secret" not in repr(read({"time": STAMP, "text": "my secret", "user": "secret"}))


@given(st.text(max_size=200))
def test_no_line_is_fatal(line: str) -> None:
    assert isinstance(parse(line, TODAY), Requests | Other | Unreadable)


@given(st.dictionaries(names, values, max_size=6))
def test_no_json_object_is_fatal_and_no_text_is_in_a_reason(document: dict[str, Any]) -> None:
    result = parse(json.dumps(document), TODAY)
    if isinstance(result, Requests):
        assert all(request.text for request in result.requests)
        assert all(request.text.encode() for request in result.requests)
    else:
        assert isinstance(result, Other | Unreadable)


@given(st.text(min_size=1), st.text(max_size=20), st.datetimes(datetime(2000, 1, 2), datetime(2100, 1, 1)))
def test_a_written_request_is_read_as_it_was(text: str, user: str, at: datetime) -> None:
    moment = at.replace(tzinfo=UTC)
    result = read({"time": moment.isoformat(), "text": text, "user": user})
    try:
        text.encode()
    except UnicodeEncodeError:
        assert isinstance(result, Unreadable)
    else:
        assert result == Requests((Request(moment, text, user or None),))


@given(st.text(min_size=1))
def test_any_prompt_is_read_from_vllms_log_as_it_was(prompt: str) -> None:
    line = f"DEBUG 11-28 10:00:00 [l.py:1] Request r details: prompt: {prompt!r}, prompt_token_ids: None."
    result = parse(line, TODAY)
    markers = ("<|", "[INST]", "<start_of", "<\uff5c")
    if isinstance(result, Requests) and not any(marker in prompt for marker in markers):
        assert result.requests[0].text == prompt
    else:
        assert isinstance(result, Unreadable) or any(marker in prompt for marker in markers)

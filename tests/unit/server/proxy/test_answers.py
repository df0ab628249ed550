"""Answers pass unchanged but for their id, wherever the stream is cut."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop_server.proxy.answers import MAX_EVENT, MAX_KEPT, AnswerTooLong, EventRewriter, rewrite
from driftloop_server.proxy.formats import Choices, Responses

json_values = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5)


def event(piece: str, **more: object) -> bytes:
    document = {"id": "cmpl-1", "choices": [{"index": 0, "delta": {"content": piece}}]} | more
    return f"data: {json.dumps(document, ensure_ascii=False)}\n\n".encode()


@given(
    pieces=st.lists(st.text(max_size=5), max_size=6),
    unknown=json_values,
    cuts=st.lists(st.integers(1, 40), max_size=40),
)
def test_a_stream_keeps_all_but_its_id_however_it_is_cut(pieces: list[str], unknown: object, cuts: list[int]) -> None:
    data = b": hello\n\n" + b"".join(event(piece, unknown=unknown) for piece in pieces) + b"data: [DONE]\n\n"
    rewriter, out, rest = EventRewriter("resp-1", Choices()), b"", data
    for size in [*cuts, len(data)]:
        out += rewriter.feed(rest[:size])
        rest = rest[size:]
    out += rewriter.flush()
    expected = [json.loads(event(piece, unknown=unknown)[6:]) | {"id": "resp-1"} for piece in pieces]
    lines = [line for line in out.split(b"\n") if line]
    assert lines[0] == b": hello"
    assert lines[-1] == b"data: [DONE]"
    assert [json.loads(line[6:]) for line in lines[1:-1]] == expected
    assert rewriter.text == "".join(pieces)


def test_an_error_event_has_no_id_and_gets_none_and_is_a_failure() -> None:
    error = b'data: {"error": {"message": "x"}}\n\n'
    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(event("a", error=None))
    assert not rewriter.failed
    assert rewriter.feed(error) == error
    assert rewriter.failed


def test_an_endless_event_is_an_error() -> None:
    rewriter = EventRewriter("resp-1", Choices())
    assert rewriter.feed(b"x" * MAX_EVENT) == b""
    with pytest.raises(AnswerTooLong):
        rewriter.feed(b"x")


def test_of_an_endless_answer_a_part_is_kept() -> None:
    rewriter = EventRewriter("resp-1", Choices())
    for _ in range(100):
        rewriter.feed(event("x" * 1000))
    assert MAX_KEPT <= len(rewriter.text) <= MAX_KEPT + 1000


@pytest.mark.parametrize(
    ("choices", "text"),
    [
        ([{"text": "a"}], "a"),
        ([{"message": {"content": "b"}}], "b"),
        ([{"message": {"content": None, "tool_calls": []}}], ""),
        ([], ""),
        (None, ""),
    ],
)
def test_the_text_of_any_answer_is_found(choices: object, text: str) -> None:
    body, found, *_ = rewrite(
        json.dumps({"id": "x", "choices": choices, "usage": {"total_tokens": 3}}).encode(), "resp-1", Choices()
    )
    assert json.loads(body) == {"id": "resp-1", "choices": choices, "usage": {"total_tokens": 3}}
    assert found == text


@pytest.mark.parametrize(
    ("usage", "tokens"), [({"completion_tokens": 7}, 7), ({"completion_tokens": None}, 0), (None, 0), ([], 0)]
)
def test_the_tokens_of_a_whole_answer_are_the_engines_count(usage: object, tokens: int) -> None:
    assert rewrite(json.dumps({"id": "x", "usage": usage}).encode(), "resp-1", Choices())[2] == tokens


def test_the_tokens_of_a_stream_are_the_engines_count_or_its_pieces() -> None:
    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(event("a") + event("b"))
    assert rewriter.tokens == 2
    rewriter.feed(event("", choices=[], usage={"completion_tokens": 5}))
    assert rewriter.tokens == 5


@pytest.mark.parametrize(
    ("reason", "more", "whole"),
    [
        ("stop", {}, True),
        ("length", {}, False),
        (None, {}, False),
        ("tool_calls", {"tool_calls": [{"id": "1"}]}, False),
        ("stop", {"tool_calls": [{"id": "1"}]}, False),
    ],
)
def test_only_what_the_model_ended_itself_is_all_of_an_answer(reason: Any, more: dict[str, Any], whole: bool) -> None:
    said = {"content": "a"} | more
    document = {"id": "x", "choices": [{"message": said, "finish_reason": reason}]}
    assert rewrite(json.dumps(document).encode(), "resp-1", Choices()).whole == whole
    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(event("", choices=[{"delta": said}]) + event("", choices=[{"delta": {}, "finish_reason": reason}]))
    assert rewriter.whole == whole


def test_an_answer_of_which_a_part_is_kept_is_not_whole() -> None:
    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(event("x" * MAX_KEPT) + event("", choices=[{"delta": {}, "finish_reason": "stop"}]))
    assert not rewriter.whole
    document = {"id": "x", "choices": [{"message": {"content": "x" * 2 * MAX_KEPT}, "finish_reason": "stop"}]}
    answer = rewrite(json.dumps(document).encode(), "resp-1", Choices())
    assert (len(answer.text), answer.whole) == (MAX_KEPT, False)


def chunk(delta: dict[str, object], finish_reason: str | None = None) -> bytes:
    document = {"id": "c", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
    return f"data: {json.dumps(document)}\n\n".encode()


ENDINGS: list[tuple[str, dict[str, object], str]] = [
    ("stop", {"content": "yes"}, "complete"),
    ("length", {"content": "yes"}, "cut"),
    ("stop", {"content": " \n"}, "empty"),
    ("length", {"content": None, "reasoning_content": "well"}, "empty"),  # it thought up to its limit
    ("tool_calls", {"content": None, "tool_calls": [{"index": 0}]}, "complete"),
    ("stop", {"content": None, "refusal": "I can't"}, "refused"),
    ("content_filter", {"content": "bad"}, "refused"),
]


@pytest.mark.parametrize(("reason", "message", "ending"), ENDINGS)
def test_how_an_answer_ended(reason: str, message: dict[str, object], ending: str) -> None:
    whole = {"id": "c", "choices": [{"index": 0, "message": message, "finish_reason": reason}]}
    assert rewrite(json.dumps(whole).encode(), "resp-1", Choices()).ending == ending
    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(chunk({"role": "assistant", "content": ""}))
    assert not rewriter.begun
    rewriter.feed(chunk(message))
    assert rewriter.ending is None
    rewriter.feed(chunk({}, reason))
    rewriter.feed(b'data: {"id": "c", "choices": [], "usage": {"completion_tokens": 3}}\n\n')
    assert rewriter.ending == ending
    assert rewriter.begun


def test_a_stream_that_breaks_off_has_no_ending() -> None:
    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(chunk({"content": "yes"}))
    assert rewriter.ending is None


def test_how_an_answer_of_the_responses_api_ended() -> None:
    def ending(**response: object) -> str:
        return rewrite(json.dumps({"object": "response", **response}).encode(), "resp-1", Responses()).ending

    text: object = [{"type": "message", "content": [{"type": "output_text", "text": "yes"}]}]
    refusal: object = [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]
    assert ending(status="completed", output=text) == "complete"
    assert ending(status="completed", output=[]) == "empty"
    assert ending(status="completed", output=[{"type": "function_call"}]) == "complete"
    assert ending(status="completed", output=refusal) == "refused"
    assert ending(status="incomplete", incomplete_details={"reason": "max_output_tokens"}, output=text) == "cut"
    rewriter = EventRewriter("resp-1", Responses())
    final: object = {"type": "response.completed", "response": {"status": "completed", "output": text}}
    for event in (
        {"type": "response.created", "response": {"status": "in_progress"}},
        {"type": "x.delta", "delta": "y"},
    ):
        rewriter.feed(f"data: {json.dumps(event)}\n\n".encode())
    assert (rewriter.begun, rewriter.ending) == (True, None)
    rewriter.feed(b'data: {"type": "response.output_text.delta", "delta": "yes"}\n\n')
    rewriter.feed(f"data: {json.dumps(final)}\n\n".encode())
    assert rewriter.ending == "complete"

"""Where each API has the id, the text and the tokens of an answer."""

import json
from typing import Any

from driftloop_server.proxy.answers import EventRewriter, Rewritten, rewrite
from driftloop_server.proxy.formats import Choices, Responses

MESSAGE: dict[str, Any] = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "lost"}]}
THOUGHT: dict[str, Any] = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]}
CALL: dict[str, Any] = {"type": "function_call", "name": "rate", "arguments": "{}", "call_id": "c1"}


def response(*items: dict[str, Any], status: str = "completed") -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 7, "total_tokens": 10}
    return {"id": "resp_1", "object": "response", "status": status, "output": list(items), "usage": usage}


def read(document: dict[str, Any]) -> Rewritten:
    return rewrite(json.dumps(document).encode(), "resp-1", Responses())


def test_the_text_of_a_response_is_that_of_its_messages() -> None:
    found = read(response(THOUGHT, MESSAGE))
    assert json.loads(found.body)["id"] == "resp-1"
    assert (found.text, found.tokens, found.whole) == ("lost", 7, True)


def test_a_response_that_calls_or_was_cut_is_not_whole() -> None:
    assert not read(response(MESSAGE, CALL)).whole
    assert not read(response(MESSAGE, status="incomplete")).whole


def stream(*events: dict[str, Any]) -> tuple[EventRewriter, list[dict[str, Any]]]:
    data = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
    rewriter = EventRewriter("resp-1", Responses())
    lines = rewriter.feed(data.encode()).decode().splitlines()
    assert [line[7:] for line in lines if line.startswith("event: ")] == [event["type"] for event in events]
    return rewriter, [json.loads(line[6:]) for line in lines if line.startswith("data: ")]


def test_a_streamed_response_has_its_text_in_deltas_and_its_tokens_at_the_end() -> None:
    created = {"type": "response.created", "response": response(status="in_progress")}
    deltas = [{"type": "response.output_text.delta", "delta": text, "item_id": "m1"} for text in ("lo", "st")]
    done = {"type": "response.completed", "response": response(MESSAGE)}
    rewriter, events = stream(created, *deltas, done)
    assert (rewriter.text, rewriter.tokens, rewriter.whole, rewriter.failed) == ("lost", 7, True, False)
    assert [event["response"]["id"] for event in events if "response" in event] == ["resp-1"] * 2
    assert events[1:3] == deltas


def test_a_failed_response_is_a_failure_and_one_that_was_cut_has_the_tokens_so_far() -> None:
    for event in ({"type": "response.failed", "response": response(status="failed")}, {"type": "error", "code": "x"}):
        assert stream(event)[0].failed
    rewriter, _ = stream({"type": "response.output_text.delta", "delta": "lo"})
    assert (rewriter.tokens, rewriter.whole) == (1, False)


def test_of_several_choices_the_first_is_kept_in_whatever_order_they_come() -> None:
    """A rating of an answer of two choices was stored with the letters of both mixed."""

    def event(index: int, text: str, end: str | None = None) -> bytes:
        choice = {"index": index, "delta": {"content": text}, "finish_reason": end}
        return f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\n\n".encode()

    rewriter = EventRewriter("resp-1", Choices())
    rewriter.feed(event(1, "x") + event(0, "lo") + event(1, "y", "stop"))
    assert not rewriter.whole
    rewriter.feed(event(0, "st", "stop"))
    assert (rewriter.text, rewriter.whole) == ("lost", True)
    choices = [{"index": 1, "message": {"content": "xy"}}, {"index": 0, "message": {"content": "lost"}}]
    assert rewrite(json.dumps({"choices": choices}).encode(), "resp-1", Choices()).text == "lost"

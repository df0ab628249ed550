"""A conversation is the same row whether it comes from a file of data or from a user's correction."""

import json
from datetime import UTC, datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from driftloop.api.finetunejob import Columns
from driftloop.contract.prompts import prompt_of
from driftloop.contract.text import is_blank, side
from driftloop_trainer.data.files import Record
from driftloop_trainer.prepare.feedback import FeedbackRecord, select
from driftloop_trainer.prepare.sources import to_row
from parts import examples

NOW = datetime(2030, 1, 1, tzinfo=UTC)
TOOLS = [{"type": "function", "function": {"name": "rate", "parameters": {"type": "object"}}}]

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not is_blank(text))
texts = words | st.lists(words, min_size=1, max_size=3).map(
    lambda parts: [{"type": "text", "text": part} for part in parts]
)
scalars = words | st.integers() | st.booleans() | st.none()
arguments = st.dictionaries(words, scalars, max_size=3)
calls = st.builds(
    lambda name, given, spelled: {
        "id": "c1",
        "type": "function",
        "function": {"name": name, "arguments": json.dumps(given) if spelled else given},
    },
    words,
    arguments,
    st.booleans(),
)


def message(role: str, **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"role": st.just(role)} | fields)


users = message("user", content=texts)
instructions = message("system", content=texts) | message("developer", content=texts)
answers = message("assistant", content=texts).map(lambda answer: [answer])
tools = st.tuples(
    message("assistant", content=st.none() | words, tool_calls=st.lists(calls, min_size=1, max_size=2)),
    message("tool", content=texts, tool_call_id=st.just("c1")),
).map(list)
exchanges = st.lists(st.tuples(users, answers | tools), max_size=3).map(
    lambda pairs: [turn for asked, said in pairs for turn in (asked, *said)]
)
conversations = st.tuples(st.lists(instructions, max_size=1), exchanges, users).map(
    lambda parts: [*parts[0], *parts[1], parts[2]]
)


@given(conversations, words, st.booleans())
@examples(200)
def test_data_and_feedback_agree_on_turns_key_and_side(
    messages: list[dict[str, Any]], answer: str, offered: bool
) -> None:
    columns = Columns(messages="messages", tools="tools")
    record = {"messages": [*messages, {"role": "assistant", "content": answer}], "tools": TOOLS if offered else None}
    data = to_row(Record("line 1", json.loads(json.dumps(record))), columns, "data", "s")

    prompt = prompt_of({"messages": messages} | ({"tools": TOOLS} if offered else {}))
    assert prompt is not None
    line = prompt.stored() | {"id": "1", "rating": "correction", "correction": answer, "created": NOW.isoformat()}
    stored = FeedbackRecord.model_validate(json.loads(json.dumps(line)))
    [feedback] = select([stored], now=NOW, max_rows=1, max_rows_per_user=1).rows

    assert feedback.turns == data.turns
    assert feedback.tools == data.tools
    assert feedback.key == data.key
    assert side("family", prompt.identity, 50) == side("family", data.identity, 50)

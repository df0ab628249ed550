import json

from driftloop_trainer.data.rows import Row, Turn

CALL = json.dumps({"tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]})
TURNS = (
    Turn("system", "be kind"),
    Turn("user", "hi"),
    Turn("assistant", "", CALL),
    Turn("tool", "15", '{"tool_call_id": "c1"}'),
    Turn("assistant", "fifteen"),
)


def test_a_conversation_is_known_by_its_turns() -> None:
    row = Row("data", "s", TURNS)
    assert (row.kind, row.prompt, row.completion) == ("chat", "hi", "fifteen")
    assert (row.question, row.answer, row.history) == (TURNS[:-1], TURNS[-1], TURNS[:1])
    assert row.identity == 'hi\n\nf({"a":1})\n15'


def test_a_conversation_without_an_answer_is_all_question() -> None:
    row = Row("data", "s", TURNS[:2])
    assert (row.answer, row.completion, row.question) == (None, None, TURNS[:2])
    assert row.key == Row("data", "s", (*TURNS[:2], Turn("assistant", "hello"))).key


def test_plain_text_is_its_own_prompt_and_identity() -> None:
    row = Row("data", "s", text=" a  fee ")
    assert (row.kind, row.prompt, row.identity, row.completion, row.history) == (
        "text",
        " a  fee ",
        " a  fee ",
        None,
        (),
    )
    assert row.normalised() == Row("data", "s", text="a  fee")


def test_a_message_carries_what_templates_take() -> None:
    assert TURNS[1].message() == {"role": "user", "content": "hi"}
    assert TURNS[2].message() == {"role": "assistant", "content": "", **json.loads(CALL)}


def test_where_a_row_lies_makes_no_other_row() -> None:
    assert Row.answering("data", "s", "a", "b", place="line 1") == Row.answering("data", "s", "a", "b", place="line 9")


def test_all_its_text_is_counted_and_normalised() -> None:
    row = Row.answering("data", "s", "a  b", " c", history=(Turn("assistant", "", "{}"),))
    assert row.characters == 4 + 2 + 2
    assert [turn.content for turn in row.normalised().turns] == ["", "a  b", "c"]


def test_normalised_text_keeps_its_lines_its_indentation_and_its_characters() -> None:
    code = "def f(x):\n    return x\u00b2  # \u2026\n\n- a\n\t- b"
    row = Row.answering("data", "s", f" {code}\n".replace("\n", "\r\n"), f"{code}\n")
    assert [turn.content for turn in row.normalised().turns] == [code, code]
    assert row.normalised().key == row.key

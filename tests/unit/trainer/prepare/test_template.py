"""Whatever a chat template does wrong is told with its own words, and the row."""

import pytest

from driftloop.podlib.ending import StageFailure
from driftloop_trainer.data.rows import Row, Turn
from driftloop_trainer.prepare.template import ChatTemplate
from unit.trainer import templates
from unit.trainer.templates import with_template

ROW = Row("data", "rows", (Turn("user", "hi"), Turn("assistant", "yes")), place="line 3")
CALL = '{"tool_calls": [{"type": "function", "function": {"name": "find", "arguments": {}}}]}'


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m.content }}", "Unexpected end of template"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        ("{{ strftime_nowhere('%Y') }}", "'strftime_nowhere' is undefined"),
        ("{{ messages[0]['parts'][0] }}", "has no attribute 'parts'"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_its_failure_is_the_users_to_mend(template: str, words: str) -> None:
    with pytest.raises(StageFailure, match=r"TemplateRefusesRow: source rows, line 3: .*user, assistant") as failure:
        ChatTemplate(with_template(template)).text(ROW, 1, prompt=True)
    assert words in failure.value.message
    assert failure.value.exit_code == 78


def test_roles_that_must_alternate_are_told() -> None:
    row = Row("data", "rows", (Turn("user", "a"), Turn("user", "b"), Turn("assistant", "c")), place="row 7")
    with pytest.raises(StageFailure, match=r"row 7: .*\(user, user, assistant\): Conversation roles must alternate"):
        ChatTemplate(with_template(templates.GEMMA)).text(row, 3, prompt=False)


@pytest.mark.parametrize(
    ("row", "lost"),
    [
        (Row("data", "rows", (Turn("system", "be kind"), *ROW.turns)), "system messages"),
        (Row("data", "rows", ROW.turns, tools='[{"type": "function", "function": {"name": "f"}}]'), "tool schemas"),
        (Row("data", "rows", (Turn("user", "hi"), Turn("assistant", "", CALL))), "tool calls"),
        (Row("data", "rows", (*ROW.turns, Turn("tool", "42"))), "tool results"),
        (Row("data", "rows", (Turn("user", "hi"), Turn("assistant", "a", '{"reasoning_content": "b"}'))), "reasoning"),
    ],
)
def test_what_it_would_leave_out_is_refused(row: Row, lost: str) -> None:
    only = "{% for m in messages if m.role in ('user', 'assistant') %}{{ m.content }}{% endfor %}"
    with pytest.raises(StageFailure, match=f"TemplateLosesContent: source rows: .* leaves out {lost}"):
        ChatTemplate(with_template(only)).check(row)
    ChatTemplate(with_template(only)).check(ROW)
    every = "{{ messages }}{{ tools }}"
    ChatTemplate(with_template(every)).check(row)


@pytest.mark.parametrize(
    ("turn", "shown", "lost"),
    [
        (Turn("user", "hi"), "''", "questions"),
        (Turn("assistant", "yes"), "m.content if m.role == 'user'", "answers"),
        (Turn("assistant", "<think>hm</think>yes"), "m.content.split('</think>') | last", "thoughts before answers"),
        (Turn("assistant", "I look", CALL), "m.tool_calls or m.content", "text beside tool calls"),
    ],
)
def test_text_that_it_would_leave_out_is_refused(turn: Turn, shown: str, lost: str) -> None:
    template = ChatTemplate(with_template("{% for m in messages %}{{ " + shown + " }}{% endfor %}"))
    with pytest.raises(StageFailure, match=f"TemplateLosesContent: source rows: .* leaves out {lost}"):
        template.check(Row("data", "rows", (Turn("user", "hi"), turn)))


def test_our_own_template_refuses_what_it_has_no_token_for(tokenizer: object) -> None:
    for turn in (Turn("tool", "42"), Turn("assistant", "", CALL), Turn("developer", "be kind")):
        with pytest.raises(StageFailure, match="knows messages of system, user and assistant"):
            ChatTemplate(tokenizer).text(Row("data", "rows", (ROW.turns[0], turn)), 2, prompt=True)

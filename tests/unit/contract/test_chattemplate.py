"""A template's defaults change nothing but the variables they name."""

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from driftloop.contract.chattemplate import chosen, with_defaults

TALK = [{"role": "user", "content": "hi"}]


def rendered(template: str, **values: Any) -> str:
    return str(render_jinja_template([TALK], chat_template=template, **values)[0][0])


@pytest.mark.parametrize("start", ["", "\n", "  ", "\n  {% if true %}\n  {% endif %}\n"])
def test_defaults_add_nothing_to_the_text(start: str) -> None:
    template = (
        start + "{% for m in messages %}{{ m.content }} {{ 'on' if on is defined and on else 'off' }}{% endfor %}"
    )
    assert rendered(with_defaults(template, {"on": True})) == rendered(template, on=True)
    assert rendered(with_defaults(template, {"other": 1})) == rendered(template)


def test_a_requests_value_wins_and_a_later_default_replaces_an_earlier_one() -> None:
    template = with_defaults("{{ level }}", {"level": "low", "kept": 1})
    assert rendered(template) == "low"
    assert rendered(template, level="high") == "high"
    later = with_defaults(template, {"level": "middle"})
    assert rendered(later) == "middle"
    assert later.count("kept") == 2
    assert with_defaults(later, {"level": "middle"}) == later  # each retraining may name it again


@pytest.mark.parametrize(
    "value", ["", 'a "quoted" \\ text', "%} }} {{ x }} {% y %} {# z #}", "two\nlines", "東京 🙂", "'"]
)
def test_any_text_is_a_value(value: str) -> None:
    assert rendered(with_defaults("{{ v }}", {"v": value})) == value


@pytest.mark.parametrize("value", [True, False, 0, 7, -1.5])
def test_numbers_and_truth_are_values(value: object) -> None:
    assert rendered(with_defaults("{{ v }}", {"v": value})) == str(value)


def test_values_need_one_template_to_stand_in() -> None:
    assert chosen(None, "{{ v }}", None) == "{{ v }}"
    assert chosen("{{ own }}", None, {}) == "{{ own }}"
    for own, count in ((None, "no chat template"), ({"default": "a", "rag": "b"}, "several chat templates")):
        with pytest.raises(ValueError, match=f"chatTemplateKwargs: the model has {count}: set chatTemplate"):
            chosen(own, None, {"v": 1})

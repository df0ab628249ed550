"""A chat template with default values for its variables. Pure.

The values are written into the template's text. So a model's folder alone tells how its messages are rendered: every
engine renders as the training did, and the digest covers it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

# The newline after a block belongs to the block (trim_blocks), so these lines add nothing to the rendered text:
# https://huggingface.co/docs/transformers/chat_templating_writing
_LINE = "{{% if {name} is not defined %}}{{% set {name} = {value} %}}{{% endif %}}\n"
_DEFAULT = re.compile(r"\{% if (\w+) is not defined %\}\{% set \1 = [^\n]* %\}\{% endif %\}\n")


def with_defaults(template: str, values: Mapping[str, Any]) -> str:
    """The template with these values where a request gives none. They replace those of an earlier call.

    >>> with_defaults("Hello", {"polite": True})
    '{% if polite is not defined %}{% set polite = true %}{% endif %}\\nHello'
    """
    lines: dict[str, str] = {}
    while line := _DEFAULT.match(template):
        lines[line[1]] = line[0]
        template = template[line.end() :]
    lines |= {name: _LINE.format(name=name, value=_literal(value)) for name, value in values.items()}
    return "".join(lines[name] for name in sorted(lines)) + template


def chosen(own: Any, template: str | None, values: Mapping[str, Any] | None) -> str:
    """The template to use: `template`, else the model's `own`, with the values as defaults.

    `own` is a text, texts by name, or None. Raises ValueError if it is not one text, and no template is given.
    """
    source = own if template is None else template
    if not isinstance(source, str) or not source:
        count = "several chat templates" if source else "no chat template"
        raise ValueError(f"chatTemplateKwargs: the model has {count}: set chatTemplate too")
    return with_defaults(source, values or {})


def _literal(value: Any) -> str:
    """The value as Jinja writes it. Its literals are JSON's, and within quotes all but a few characters stand alone."""
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("%}", "%\\u007d").replace("}}", "}\\u007d") if isinstance(value, str) else text

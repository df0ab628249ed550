"""How a suite was measured, for the gate in the status. Pure."""

import hashlib
import json
from typing import Any

from driftloop.api.suite import SuiteSpec

_ANSWERS = {"max_tokens", "system_prompt", "stop", "temperature", "top_p", "seed"}
_LONG = 71  # characters of a value, as of a digest; so all settings of a suite fit into the field


def settings_of(suite: SuiteSpec, max_tokens: int) -> str:
    """The settings of the suite's metric and answers as JSON, long values replaced by their SHA-256.

    `max_tokens` is the default of suites.
    """
    metric = suite.metric.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"type", "judge"})
    judge = suite.metric.judge.dump() if suite.metric.judge else {}
    metric |= {f"judge.{name}": judge[name] for name in ("url", "model", "prompt", "maxTokens") if name in judge}
    answers = suite.model_dump(mode="json", by_alias=True, exclude_none=True, include=_ANSWERS)
    settings = {"maxTokens": max_tokens} | metric | answers
    given = {name: _short(value) for name, value in settings.items() if (name, value) != ("stop", [])}
    return json.dumps(given, ensure_ascii=False)


def _short(value: Any) -> Any:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return value if len(text) <= _LONG else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"

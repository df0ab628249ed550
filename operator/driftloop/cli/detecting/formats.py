"""Finds the format of each line, and reads it. Pure."""

import json
from datetime import datetime

from driftloop.cli.detecting import kserve, otlp, plain, vllm
from driftloop.cli.detecting.requests import BadLine, Line, Other, Unreadable

KNOWN = (
    'JSON objects such as {"time": "2026-11-28T10:00:00Z", "text": …, "user": …} or with the messages or the prompt of '
    "an OpenAI request; CloudEvents of KServe's logger; OTLP JSON with gen_ai.input.messages; vLLM's log with "
    "--enable-log-requests and VLLM_LOGGING_LEVEL=DEBUG"
)


def parse(line: str, today: datetime) -> Line:
    """What a line means. `today` gives dates without a year their year."""
    try:
        if line.lstrip().startswith("{"):
            return _parsed_json(line)
        if not line.strip():
            return Other()
        return vllm.parse(line, today) or Unreadable("neither a JSON object nor a line of vLLM's log")
    except BadLine as error:
        return Unreadable(str(error))
    except RecursionError:
        return Unreadable("nested too deeply")


def _parsed_json(line: str) -> Line:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadLine("not JSON, or cut off") from error
    if kserve.is_event(document):
        return kserve.parse(document)
    if otlp.is_otlp(document):
        return otlp.parse(document)
    if plain.is_plain(document):
        return plain.parse(document)
    raise BadLine("a JSON object of no known format: it has no text, messages, prompt or input")

"""docs/api.md names every field that the built-in engine ignores, refuses or heeds, and the bounds as they are."""

from pathlib import Path

import pytest

from driftloop_server.engine.conversation import MAX_CALLS, MAX_MESSAGES, MAX_PARTS
from driftloop_server.engine.requests import (
    IGNORED,
    MAX_CHOICES,
    MAX_STOPS,
    UNSUPPORTED,
    ChatRequest,
    CompletionRequest,
)
from driftloop_server.openai_api import MAX_SEARCHED
from driftloop_server.proxy.bodies import BODY_SECONDS, MAX_BODY, SMALL
from driftloop_server.proxy.feedback import WINDOW, FeedbackBody
from driftloop_server.proxy.pace import BODIES, REFUSALS

DOCUMENT = (Path(__file__).parents[2] / "docs/api.md").read_text()
FIXED = {"add_special_tokens"}  # a constant of each kind of request
HEEDED = {*ChatRequest.model_fields, *CompletionRequest.model_fields} - FIXED - {"stream_options"}


@pytest.mark.parametrize("field", sorted({*IGNORED, *UNSUPPORTED, *HEEDED, *FeedbackBody.model_fields}))
def test_the_field_is_documented(field: str) -> None:
    assert f"`{field}`" in DOCUMENT


def test_the_bounds_are_those_of_the_code() -> None:
    assert f"| {MAX_BODY >> 20} MiB, within {BODY_SECONDS:.0f} s |" in DOCUMENT
    assert f"| {MAX_MESSAGES:,}, {MAX_PARTS:,}, {MAX_CALLS:,} |" in DOCUMENT
    assert f"rated for {WINDOW.days} days" in DOCUMENT
    assert f"| `logprobs`, `top_logprobs`, `n` | 20, 20, {MAX_CHOICES} |" in DOCUMENT
    assert f"| {MAX_STOPS} of 256 characters |" in DOCUMENT
    mib = 1 << 20
    pace = f"{BODIES.per_second / mib:.0f} MiB/s per pod after a burst of {BODIES.burst / mib:.0f} MiB"
    beyond = f"those beyond wait for {BODIES.longest:.0f} s at most"
    row = f"| bodies above {SMALL >> 10} KiB from one address | {pace}; {beyond} |"
    assert row in DOCUMENT
    pace = f"{REFUSALS.per_second:.0f} per second and pod after a burst of {REFUSALS.burst:.0f}"
    beyond = f"the answers of those beyond wait for {REFUSALS.longest:.0f} s at most"
    assert f"| refused requests (4xx) from one address | {pace}; {beyond} |" in DOCUMENT
    assert f"above {MAX_SEARCHED >> 10} Ki characters" in DOCUMENT

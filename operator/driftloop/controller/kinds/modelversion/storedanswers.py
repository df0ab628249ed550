"""The answers of the anchor that an earlier version stored: they are used again instead of asking the anchor. Pure.

They are the same if the anchor, the engine, the items (by digest) and the settings of the answers are. A retry asks the
anchor anew, because the stored answers may be gone.
"""

import hashlib
import json

from pydantic import ValidationError

from driftloop.api.modelversion import StoredAnswers
from driftloop.api.suite import SuiteSpec
from driftloop.contract.result import AnswerResult
from driftloop.controller.kinds.engines import engine_hash
from driftloop.controller.kinds.modelversion.anchor import Anchor
from driftloop.controller.kinds.modelversion.evaluation import Evaluation
from driftloop.controller.pods.common import missing_claim
from driftloop.controller.vocabulary.labels import RETRY
from driftloop.controller.vocabulary.objects import field

_ASKED = {"name", "digest", "max_items", "max_tokens", "system_prompt", "stop", "temperature", "top_p", "seed"}


def stored_answers(evaluation: Evaluation, anchor: Anchor) -> AnswerResult | None:
    """The answers of the anchor that another version stored; None if it has to be asked."""
    key, observed = _key(evaluation, anchor), evaluation.observed
    if key is None or observed.annotations.get(RETRY) is not None:
        return None
    for version in observed.versions:
        try:
            stored = StoredAnswers.model_validate(field(version, "status", "anchorAnswers"))
        except ValidationError:
            continue
        if stored.key == key and missing_claim([stored.uri], observed.claims) is None:
            return AnswerResult(uri=stored.uri, digest=stored.digest, model_digest=anchor.digest, items=0)
    return None


def to_store(evaluation: Evaluation, anchor: Anchor, answers: AnswerResult) -> StoredAnswers | None:
    """What the status says about answers of the anchor; None if the items have no digest."""
    key = _key(evaluation, anchor)
    return StoredAnswers(key=key, uri=answers.uri, digest=answers.digest) if key else None


def _key(evaluation: Evaluation, anchor: Anchor) -> str | None:
    settings = evaluation.observed.spec.evaluation
    suites = [suite for suite in settings.suites if suite.total_delta is not None]
    if any(suite.digest is None for suite in suites):
        return None
    asked = [_asked(suite) for suite in suites]
    engine = engine_hash(evaluation.comparison.engine)
    parts = [anchor.digest, engine, settings.max_tokens, settings.reasoning_tags, asked]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _asked(suite: SuiteSpec) -> dict[str, object]:
    """What an answer depends on. `logprob` asks for the probability of the completion instead."""
    weighed = suite.metric.type == "logprob"
    return suite.model_dump(mode="json", include=_ASKED) | {"weighed": weighed}

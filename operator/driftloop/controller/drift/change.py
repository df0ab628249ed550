"""What changed, by how much and since when, in one sentence. Pure.

The requests since the change point are compared with the baseline at that time of the day and day of the week.
"""

from datetime import datetime

from driftloop.api.inferenceservice import DriftStatus, DriftTopic
from driftloop.contract.names import ANSWER_LENGTH, NOVELTY, UNANSWERED
from driftloop.contract.topics import Topic
from driftloop.controller.drift.detector import FEEDBACK, WATCHED, normal_scores, signal_evidence
from driftloop.controller.drift.memory import decode, remembered, rows
from driftloop.controller.vocabulary.conditions import parse_timestamp

MAX_MESSAGE = 512  # characters of status.drift.message
NOUNS = {
    "surprisal": "surprisal",
    "oov": "the share of unknown words",
    "length": "length",
    NOVELTY: "the distance from all training texts",
    ANSWER_LENGTH: "the length of answers",
    UNANSWERED: "the share of refused or empty answers",
}


def moved(status: DriftStatus) -> list[str]:
    """The signals that drifted: the one with most evidence, and each whose own evidence is enough for an alarm."""
    state = decode(status.evidence)
    limit = float(status.threshold or "inf")
    strongest = max(WATCHED, key=lambda signal: signal_evidence(state, signal))
    return [signal for signal in WATCHED if signal == strongest or signal_evidence(state, signal) >= limit]


def shifts(status: DriftStatus) -> dict[str, float]:
    """How far the signals that drifted have moved: the mean score since the change, in standard deviations.

    A signal without a baseline is left out: ratings, while only their fixed limit is known.
    """
    changed = {signal.signal: signal.counts for signal in status.changed}
    normals = remembered(status).normals
    found = {}
    for signal in moved(status):
        counts, normal = changed.get(signal, ()), normals.get(signal)
        reference = normal.at(_middle(status)) if normal else None
        scores = normal_scores(reference) if reference else None
        if reference and scores and len(scores) == len(counts) and sum(counts) > 0:
            mean = sum(score * count for score, count in zip(scores, counts, strict=True)) / sum(counts)
            found[signal] = mean - reference.mean
    return found


def sentence(status: DriftStatus) -> str:
    """The change in a sentence, such as `drift: surprisal rose by 0.82 standard deviations since …`, with topics."""
    parts = ", ".join(_part(status, signal) for signal in moved(status))
    number = rows({signal.signal: tuple(signal.counts) for signal in status.changed})
    since = f" since {status.change_point}" if status.change_point else ""
    return "; ".join([f"drift: {parts}{since}{f' ({number} requests)' if number else ''}", *_about(status)])


def shortened(message: str, length: int = MAX_MESSAGE) -> str:
    """The message, as far as the status can have it."""
    return message if len(message) <= length else f"{message[: length - 2]} …"


def more(topic: Topic | DriftTopic) -> str:
    """A topic that grew, such as `more requests with "refund": 1.4 % before, 12 % since (59)`."""
    named = ", ".join(f'"{term}"' for term in topic.terms)
    shares = f"{_percent(float(topic.before))} before, {_percent(float(topic.since))} since"
    return f"more requests with {named}: {shares} ({topic.requests})"


def _about(status: DriftStatus) -> list[str]:
    """What the new requests are about. Nothing while it is unknown."""
    if status.topics_at is None:
        return []
    if not status.topics and not status.unnamed_topics:
        return ["no word is in many more requests than before"]
    hidden = status.unnamed_topics
    unnamed = [f"{hidden} more topic{'s' if hidden > 1 else ''} in words of too few stored prompts"] if hidden else []
    return [*map(more, status.topics), *unnamed]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _part(status: DriftStatus, signal: str) -> str:
    if signal == FEEDBACK:
        return _ratings(status)
    noun, shift = NOUNS[signal], status.shift.get(signal)
    if shift is None:
        return f"{noun} changed"
    verb = "fell" if float(shift) < 0 else "rose"
    return f"{noun} {verb} by {abs(float(shift)):.2f} standard deviations"


def _ratings(status: DriftStatus) -> str:
    before, now = (_bad_share({s.signal: s.counts for s in signals}) for signals in (status.baseline, status.changed))
    if now is None:
        return "bad ratings rose"
    if before is None or status.health != "Good":
        return f"{now:.0%} of the ratings are bad".replace("%", " %")
    return f"bad ratings rose from {before:.0%} to {now:.0%}".replace("%", " %")


def _bad_share(counts: dict[str, list[int]]) -> float | None:
    good, bad = (*counts.get(FEEDBACK, ()), 0, 0)[:2]
    return bad / (good + bad) if good + bad else None


def _middle(status: DriftStatus) -> datetime:
    """The middle of the time since the change."""
    until = parse_timestamp(status.consumed_until or status.change_point or "")
    since = parse_timestamp(status.change_point) if status.change_point else until
    return since + (until - since) / 2

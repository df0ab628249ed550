"""Statistics of a request's text, and what was normal for them: the reference profile of a model. Pure.

The training run writes a profile beside the model; the proxy counts each request into the profile's bins; the
detector compares those counts with the profile's masses. All that one knows of a text is which bins it fell into,
so counters add up over replicas and no text leaves the pod.

Signals: `surprisal`, the mean of -ln p(word) under the profile's unigram model (nats a word); `oov`, the share of
words outside its vocabulary; `length`, in words. The vocabulary comes from one half of the rows and the bins from
the other: scores of rows that also made the vocabulary would be too good, and every live request would look like
drift.
"""

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driftloop.contract.names import SIGNALS
from driftloop.contract.text import normalise, row_key

PROFILE = "drift_profile.json"  # its name in a model's folder
VOCABULARY = 20_000  # words kept, most frequent first
MAX_CHARACTERS = 8_000  # of a text, at both ends: bounds the cost of a request and the length signal

_QUANTILES = 10
_VERSION = 1
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_DIGITS = re.compile(r"\d+")
# Scripts written without spaces (kana, Han) count by the character; everything else by the run of letters.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """The words that statistics are made of: normalised, case-folded, e-mail addresses and numbers redacted."""
    folded = normalise(text[:MAX_CHARACTERS]).casefold()
    return _WORD.findall(_DIGITS.sub("0", _EMAIL.sub(" email ", folded)))


def bin_label(index: int) -> str:
    """The `bin` label of Metric.DRIFT_BIN: 00, 01 ..."""
    return f"{index:02d}"


@dataclass(frozen=True)
class Profile:
    """What is normal. `edges[signal]` are the upper ends of all bins but the last, ascending."""

    rows: int  # scored rows behind the masses; 0: nothing is known
    vocabulary: Mapping[str, int]  # word -> occurrences
    edges: Mapping[str, Sequence[float]]
    shares: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        # ln p with add-one smoothing over the vocabulary and one entry for everything else.
        total = sum(self.vocabulary.values()) + len(self.vocabulary) + 1
        object.__setattr__(self, "_unknown", math.log(total))
        table = {word: math.log(total) - math.log(count + 1) for word, count in self.vocabulary.items()}
        object.__setattr__(self, "_surprisal", table)

    def scores(self, text: str) -> dict[str, float]:
        """The value of each signal for one text; all zero for a text without words."""
        found = words(text)
        if not found:
            return dict.fromkeys(SIGNALS, 0.0)
        table: Mapping[str, float] = self._surprisal  # type: ignore[attr-defined]  # set in __post_init__
        unknown: float = self._unknown  # type: ignore[attr-defined]
        surprisal = sum(table.get(word, unknown) for word in found)
        outside = sum(word not in table for word in found)
        return {"surprisal": surprisal / len(found), "oov": outside / len(found), "length": float(len(found))}

    def bins(self, text: str) -> dict[str, int]:
        """The bin of each signal that one text falls into, counted from 0."""
        return {signal: bisect_left(self.edges[signal], value) for signal, value in self.scores(text).items()}

    def masses(self) -> dict[str, list[float]]:
        """The reference's share of rows in each bin of each signal."""
        return {signal: list(self.shares[signal]) for signal in SIGNALS}


def build_profile(prompts: Sequence[str]) -> dict[str, Any]:
    """The profile of what a model was trained to be asked: the JSON document for `PROFILE`.

    `prompts` are what the proxy will see of a request (the last user turn), in any order, duplicates allowed: a text
    falls into one half with all its copies. Few prompts make a profile of few rows, which the detector then hardly
    believes; none at all make one of 0 rows, which it ignores.
    """
    learned: Counter[str] = Counter()
    scored: list[str] = []
    for prompt in prompts:
        if int(row_key(prompt)[:8], 16) % 2:
            scored.append(prompt)
        else:
            learned.update(words(prompt))
    unscored = Profile(rows=len(scored), vocabulary=dict(_most_common(learned)), edges={}, shares={})
    columns: dict[str, list[float]] = {signal: [] for signal in SIGNALS}
    for prompt in scored:
        for signal, value in unscored.scores(prompt).items():
            columns[signal].append(value)
    signals = {}
    for signal, values in columns.items():
        edges = _edges(values)
        signals[signal] = {"edges": edges, "masses": _masses(values, edges)}
    return {"version": _VERSION, "rows": len(scored), "vocabulary": dict(unscored.vocabulary), "signals": signals}


def load_profile(path: Path) -> Profile | None:
    """The profile in the file at `path`; None when there is no file. Raises ValueError when it is no profile."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: not a readable profile: {error}") from error
    return parse_profile(document)


def parse_profile(document: Any) -> Profile:
    """The profile of a JSON document from `build_profile`. Raises ValueError with what is wrong."""
    try:
        if document["version"] != _VERSION:
            raise ValueError(f"{PROFILE}: version {document['version']}, expected {_VERSION}")
        signals = {signal: document["signals"][signal] for signal in SIGNALS}
        profile = Profile(
            rows=int(document["rows"]),
            vocabulary={str(word): int(count) for word, count in document["vocabulary"].items()},
            edges={signal: [float(edge) for edge in found["edges"]] for signal, found in signals.items()},
            shares={signal: [float(mass) for mass in found["masses"]] for signal, found in signals.items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{PROFILE}: not a profile: {error!r}") from error
    for signal in SIGNALS:
        if len(profile.shares[signal]) != len(profile.edges[signal]) + 1:
            raise ValueError(f"{PROFILE}: {signal} needs one mass more than edges")
    return profile


def _most_common(counts: Counter[str]) -> Iterable[tuple[str, int]]:
    """The most frequent words; equal counts in alphabetical order, so that the same rows give the same bytes."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:VOCABULARY]


def _edges(values: Sequence[float]) -> list[float]:
    """Deciles, ties merged. Bin i holds values above edge i-1 and up to edge i.

    An edge at the maximum leaves the last bin empty. It stays where it is the only one: a vocabulary that covered
    every reference row is the case in which the first unknown word must count.
    """
    if not values:
        return []
    ordered = sorted(values)
    found = sorted({ordered[math.ceil(i * len(ordered) / _QUANTILES) - 1] for i in range(1, _QUANTILES)})
    return found if len(found) == 1 else [edge for edge in found if edge < ordered[-1]]


def _masses(values: Sequence[float], edges: Sequence[float]) -> list[float]:
    if not values:
        return [1.0]
    counts = [0] * (len(edges) + 1)
    for value in values:
        counts[bisect_left(edges, value)] += 1
    return [count / len(values) for count in counts]

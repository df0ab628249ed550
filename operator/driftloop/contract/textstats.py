"""Statistics of a request's text, and what was normal for them: the reference profile of a model. Pure.

The training run writes a profile beside the model; the proxy counts each request into the profile's bins; the
detector compares those counts with the profile's masses. All that one knows of a text is which bins it fell into,
so counters add up over replicas and no text leaves the pod.

Signals: `surprisal`, the mean of -ln p(word | word before) in nats; `oov`, the share of words outside the profile's
vocabulary; `length`, in words. p is the bigram model with a Dirichlet prior around the unigram (MacKay & Peto 1995):
new intents in a known domain use the old words in new pairs, which a unigram hardly sees (measured on 26 held-back
intents of a bank's support desk: a shift of 0.08 standard deviations by unigram, 0.49 by bigram).

The counts come from one half of the rows and the bins from the other: scores of rows that also made the counts would
be too good, and every live request would look like drift.
"""

import json
import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from driftloop.contract.names import SIGNALS
from driftloop.contract.text import normalise, row_key

PROFILE = "drift_profile.json"  # its name in a model's folder
VOCABULARY = 20_000  # words kept, most frequent first
PAIRS = 50_000  # pairs of neighbours, likewise
MAX_CHARACTERS = 8_000  # of a text, at both ends: bounds the cost of a request and the length signal

_QUANTILES = 10
_PRIOR = 2.0  # occurrences that the unigram counts for in p(word | word before); 0.5 to 8 make no difference
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
    words: Mapping[str, int]  # word -> occurrences
    pairs: Mapping[str, int]  # "before word" -> occurrences; nothing stands before the first word
    edges: Mapping[str, Sequence[float]]
    shares: Mapping[str, Sequence[float]]

    @cached_property
    def _total(self) -> int:
        # Add-one smoothing over the vocabulary and one entry for every other word.
        return sum(self.words.values()) + len(self.words) + 1

    @cached_property
    def _followed(self) -> Counter[str]:
        """How often a word (or nothing) stood before another one."""
        found: Counter[str] = Counter()
        for pair, count in self.pairs.items():
            found[pair.partition(" ")[0]] += count
        return found

    def _surprisal(self, before: str, word: str) -> float:
        unigram = (self.words.get(word, 0) + 1) / self._total
        seen = self.pairs.get(f"{before} {word}", 0)
        return -math.log((seen + _PRIOR * unigram) / (self._followed[before] + _PRIOR))

    def scores(self, text: str) -> dict[str, float]:
        """The value of each signal for one text; all zero for a text without words.

        Rounded: a value that ties with an edge must fall on the same side of it on every machine.
        """
        found = words(text)
        if not found:
            return dict.fromkeys(SIGNALS, 0.0)
        surprisal = sum(self._surprisal(before, word) for before, word in pairwise(["", *found]))
        outside = sum(word not in self.words for word in found)
        return {
            "surprisal": round(surprisal / len(found), 6),
            "oov": round(outside / len(found), 6),
            "length": float(len(found)),
        }

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
    counted: Counter[str] = Counter()
    paired: Counter[str] = Counter()
    scored: list[str] = []
    for prompt in prompts:
        if int(row_key(prompt)[:8], 16) % 2:
            scored.append(prompt)
        else:
            found = words(prompt)
            counted.update(found)
            paired.update(" ".join(pair) for pair in pairwise(["", *found]))
    counts = {"words": _most_common(counted, VOCABULARY), "pairs": _most_common(paired, PAIRS)}
    model = Profile(rows=len(scored), edges={}, shares={}, **counts)
    scores = [model.scores(prompt) for prompt in scored]
    signals = {signal: _summary([score[signal] for score in scores]) for signal in SIGNALS}
    return {"version": _VERSION, "rows": len(scored), **counts, "signals": signals}


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
            words={str(word): int(count) for word, count in document["words"].items()},
            pairs={str(pair): int(count) for pair, count in document["pairs"].items()},
            edges={signal: [float(edge) for edge in found["edges"]] for signal, found in signals.items()},
            shares={signal: [float(mass) for mass in found["masses"]] for signal, found in signals.items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{PROFILE}: not a profile: {error!r}") from error
    for signal in SIGNALS:
        if len(profile.shares[signal]) != len(profile.edges[signal]) + 1:
            raise ValueError(f"{PROFILE}: {signal} needs one mass more than edges")
    return profile


def _most_common(counts: Counter[str], limit: int) -> dict[str, int]:
    """The most frequent ones; equal counts in alphabetical order, so that the same rows give the same bytes."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def _summary(values: Sequence[float]) -> dict[str, list[float]]:
    """Edges, and the share of `values` in each bin; one bin holds everything where there are no values."""
    if not values:
        return {"edges": [], "masses": [1.0]}
    edges = _edges(sorted(values))
    counts = Counter(bisect_left(edges, value) for value in values)
    return {"edges": edges, "masses": [counts[i] / len(values) for i in range(len(edges) + 1)]}


def _edges(ordered: Sequence[float]) -> list[float]:
    """Deciles, ties merged. Bin i holds values above edge i-1 and up to edge i.

    An edge at the maximum leaves the last bin empty. It stays where it is the only one: a vocabulary that covered
    every reference row is the case in which the first unknown word must count.
    """
    found = sorted({ordered[math.ceil(i * len(ordered) / _QUANTILES) - 1] for i in range(1, _QUANTILES)})
    return found if len(found) == 1 else [edge for edge in found if edge < ordered[-1]]

"""Statistics of a request's text, and the reference profile of a model: what is normal for them. Pure.

Training writes a profile beside the model. The proxy counts each request in the profile's bins, and the detector
compares these counts with the profile's masses. Only the bins of a text are known, so counters can be summed over
replicas, and no text leaves the pod.

Signals: `surprisal`, the mean of -ln p(word | previous word) in nats; `oov`, the share of words outside the profile's
vocabulary; `length`, in words. p is a bigram model with a Dirichlet prior around the unigram (MacKay & Peto 1995). New
intents in a known domain use known words in new pairs, which a unigram model hardly detects. Measured on 26 held-back
intents of a bank's support desk: a shift of 0.08 standard deviations by unigram, 0.49 by bigram.

The counts come from one half of the rows, and the bins from the other. Rows that were counted would score too well,
and every live request would look like drift.
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

PROFILE = "drift_profile.json"  # file name in a model's folder
VOCABULARY = 20_000  # most frequent words that are kept
PAIRS = 50_000  # most frequent pairs of neighbouring words that are kept
MAX_CHARACTERS = 8_000  # of a text, in training and in the proxy: limits the cost per request and the length signal

_QUANTILES = 10
_PRIOR = 2.0  # weight of the unigram in p(word | previous word), in occurrences; 0.5 to 8 make no difference
_VERSION = 1
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_DIGITS = re.compile(r"\d+")
# In scripts without spaces (kana, Han) each character is a word; elsewhere each run of letters.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


def words(text: str) -> list[str]:
    """The words that are counted: normalised, case-folded, with e-mail addresses and numbers redacted."""
    folded = normalise(text[:MAX_CHARACTERS]).casefold()
    return _WORD.findall(_DIGITS.sub("0", _EMAIL.sub(" email ", folded)))


def bin_label(index: int) -> str:
    """The `bin` label of Metric.DRIFT_BIN: 00, 01 ..."""
    return f"{index:02d}"


@dataclass(frozen=True)
class Profile:
    """Reference statistics. `edges[signal]` are the upper ends of all bins except the last, in ascending order."""

    rows: int  # number of scored rows that the shares come from; 0: nothing is known
    words: Mapping[str, int]  # word -> occurrences
    pairs: Mapping[str, int]  # "previous word" -> occurrences; the first word of a text follows an empty one
    edges: Mapping[str, Sequence[float]]
    shares: Mapping[str, Sequence[float]]

    @cached_property
    def _total(self) -> int:
        # Add-one smoothing over the vocabulary, with one more entry for all other words.
        return sum(self.words.values()) + len(self.words) + 1

    @cached_property
    def _followed(self) -> Counter[str]:
        """How often each word, or the start of a text, was followed by a word."""
        counts: Counter[str] = Counter()
        for pair, count in self.pairs.items():
            counts[pair.partition(" ")[0]] += count
        return counts

    def _surprisal(self, previous: str, word: str) -> float:
        unigram = (self.words.get(word, 0) + 1) / self._total
        count = self.pairs.get(f"{previous} {word}", 0)
        return -math.log((count + _PRIOR * unigram) / (self._followed[previous] + _PRIOR))

    def scores(self, text: str) -> dict[str, float]:
        """The value of each signal for one text. All are zero for a text without words.

        Values are rounded, so that a value at an edge falls into the same bin on every machine.
        """
        tokens = words(text)
        if not tokens:
            return dict.fromkeys(SIGNALS, 0.0)
        surprisal = sum(self._surprisal(previous, word) for previous, word in pairwise(["", *tokens]))
        outside = sum(word not in self.words for word in tokens)
        return {
            "surprisal": round(surprisal / len(tokens), 6),
            "oov": round(outside / len(tokens), 6),
            "length": float(len(tokens)),
        }

    def bins(self, text: str) -> dict[str, int]:
        """The bin of one text per signal. Bins count from 0."""
        return {signal: bisect_left(self.edges[signal], value) for signal, value in self.scores(text).items()}

    def masses(self) -> dict[str, list[float]]:
        """The reference's share of rows per bin, for each signal."""
        return {signal: list(self.shares[signal]) for signal in SIGNALS}


def build_profile(prompts: Sequence[str], shared: int = 1) -> dict[str, Any]:
    """The profile of a model's training prompts: the JSON document for `PROFILE`.

    Words and pairs are left out if fewer than `shared` different prompts have them. With 2 the profile can't repeat
    what only one person wrote; on banking77 a shift is then measured a tenth smaller.

    `prompts` are the part of a request that the proxy will see, which is the last user turn. Their order does not
    matter, and duplicates are allowed: all copies of a text are in the same half. Few prompts give a profile of few
    rows, to which the detector gives little weight. Without prompts the profile has 0 rows, and the detector ignores
    it.
    """
    counted: Counter[str] = Counter()
    paired: Counter[str] = Counter()
    prompts_with: Counter[str] = Counter()  # different prompts with a word or a pair; only a pair has a space
    scored: list[str] = []
    known: set[str] = set()
    for prompt in prompts:
        key = row_key(prompt)
        if not counts_words(key):
            scored.append(prompt)
            continue
        tokens = words(prompt)
        pairs = [" ".join(pair) for pair in pairwise(["", *tokens])]
        counted.update(tokens)
        paired.update(pairs)
        if shared > 1 and key not in known:
            known.add(key)
            prompts_with.update({*tokens, *pairs})
    if shared > 1:
        counted = Counter({word: count for word, count in counted.items() if prompts_with[word] >= shared})
        paired = Counter({pair: count for pair, count in paired.items() if prompts_with[pair] >= shared})
    counts = {"words": _most_common(counted, VOCABULARY), "pairs": _most_common(paired, PAIRS)}
    model = Profile(rows=len(scored), edges={}, shares={}, **counts)
    scores = [model.scores(prompt) for prompt in scored]
    signals = {signal: summary([score[signal] for score in scores]) for signal in SIGNALS}
    return {"version": _VERSION, "rows": len(scored), **counts, "signals": signals}


def load_document(path: Path) -> Any:
    """Read the document of a profile at `path`; None if there is no file. Raises ValueError if it can't be read."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name}: not a readable profile: {error}") from error


def parse_profile(document: Any) -> Profile:
    """The profile of a JSON document from `build_profile`. Raises ValueError."""
    try:
        if document["version"] != _VERSION:
            raise ValueError(f"{PROFILE}: version {document['version']}, expected {_VERSION}")
        signals = {signal: document["signals"][signal] for signal in SIGNALS}
        profile = Profile(
            rows=int(document["rows"]),
            words={str(word): int(count) for word, count in document["words"].items()},
            pairs={str(pair): int(count) for pair, count in document["pairs"].items()},
            edges={signal: [float(edge) for edge in summary["edges"]] for signal, summary in signals.items()},
            shares={signal: [float(mass) for mass in summary["masses"]] for signal, summary in signals.items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{PROFILE}: not a profile: {error!r}") from error
    for signal in SIGNALS:
        if len(profile.shares[signal]) != len(profile.edges[signal]) + 1:
            raise ValueError(f"{PROFILE}: {signal} must have one more mass than edges")
    return profile


def _most_common(counts: Counter[str], limit: int) -> dict[str, int]:
    """The most frequent keys. Equal counts are in alphabetical order, so that the same rows give the same bytes."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:limit])


def counts_words(key: str) -> bool:
    """Whether a text with this `row_key` is in the half that is counted. The bins come from the other half."""
    return int(key[:8], 16) % 2 == 0


def summary(values: Sequence[float]) -> dict[str, list[float]]:
    """Edges, and the share of `values` in each bin. Without values there is one bin with everything."""
    if not values:
        return {"edges": [], "masses": [1.0]}
    edges = _edges(sorted(values))
    counts = Counter(bisect_left(edges, value) for value in values)
    return {"edges": edges, "masses": [counts[i] / len(values) for i in range(len(edges) + 1)]}


def _edges(ordered: Sequence[float]) -> list[float]:
    """Deciles without duplicates. Bin i holds values above edge i-1 and up to edge i.

    An edge at the maximum leaves the last bin empty, so it is dropped unless it is the only edge. This happens if the
    vocabulary covers every reference row: then the first unknown word must fall into another bin.
    """
    edges = sorted({ordered[math.ceil(i * len(ordered) / _QUANTILES) - 1] for i in range(1, _QUANTILES)})
    return edges if len(edges) == 1 else [edge for edge in edges if edge < ordered[-1]]

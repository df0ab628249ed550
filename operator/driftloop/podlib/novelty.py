"""The drift signal `novelty`: how far the meaning of a text is from everything that was asked in training. Pure.

A text is encoded by a small model that training fits on its own prompts, so no other model has to be loaded. Words that
occur in the same texts get similar vectors (latent semantic analysis, Deerwester et al. 1990, by the randomised
decomposition of Halko, Martinsson & Tropp 2011). A text's vector is the sum of its words' vectors, of length 1. The
training texts are gathered around at most `PLACES` centres (spherical k-means, Dhillon & Modha 2001), and the novelty
is 1 minus the cosine to the nearest centre.

`surprisal` sees new pairs of words, and novelty sees known words that were never used together in one text. The fit is
of the same half of the prompts whose words the profile counts, and the bins are of the other half (`textstats`).
"""

import base64
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from driftloop.contract.names import NOVELTY
from driftloop.contract.text import row_key
from driftloop.contract.textstats import PROFILE, build_profile, counts_words, summary, words

WORDS = 5_000  # most frequent words that have a vector
TEXTS = 4_000  # texts that are fitted: 80 MB
DIMENSIONS = 64
PLACES = 512
FEWEST_TEXTS = 64  # different texts, below which nothing is fitted
SHARED = 2  # different texts that a word or a place must have, so that none tells what one person wrote

_OVERSAMPLED, _POWER_STEPS, _MOVES = 16, 4, 8
_LEVELS = 127  # of a number that is stored in 8 bits

_Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Novelty:
    """The encoder, the places, and the bins of the signal. `edges`: the upper ends of all bins except the last."""

    index: Mapping[str, int]  # word -> row of `vectors`
    vectors: _Floats  # [words, dimensions]; rare words have longer vectors
    places: _Floats  # [places, dimensions]
    edges: Sequence[float] = ()
    shares: Sequence[float] = (1.0,)

    def score(self, text: str) -> float:
        """From 0 (a place of the training data) to 2. 1 without a known word: near to nothing.

        Rounded, so that a value at an edge falls into the same bin on every machine.
        """
        rows = [self.index[word] for word in words(text) if word in self.index]
        total = self.vectors[rows].sum(axis=0)
        length = float(np.linalg.norm(total))
        return round(1.0 - float((self.places @ total).max()) / length, 4) if length > 0 else 1.0

    def bin(self, text: str) -> int:
        """The bin of a text, from 0."""
        return bisect_left(self.edges, self.score(text))


def profile_of(prompts: Sequence[str]) -> dict[str, Any]:
    """The document of `build_profile`, with this signal if there are enough prompts."""
    encoder = fitted(prompts)
    return build_profile(prompts) | ({NOVELTY: encoder} if encoder else {})


def fitted(prompts: Sequence[str]) -> dict[str, Any] | None:
    """The part of the profile's document under NOVELTY, of the prompts of `build_profile`; None if there are too few.

    The same prompts in any order give the same document on machines of the same kind.
    """
    by_key = {row_key(prompt): prompt for prompt in prompts}
    counted = [by_key[key] for key in sorted(by_key) if counts_words(key)][:TEXTS]
    if len(counted) < FEWEST_TEXTS or (vocabulary := _vocabulary(counted)) is None:
        return None
    index, weights = vocabulary
    table = _table(counted, index, weights)
    directions = _directions(table)
    places = _places(_unit(table @ directions))
    encoder = {
        "words": list(index),
        "vectors": _packed(weights[:, None] * directions),
        "places": _packed(places),
    }
    novelty = _encoder(encoder)
    scored = [novelty.score(prompt) for prompt in prompts if not counts_words(row_key(prompt))]
    return encoder | summary(scored)


def parse_novelty(profile: Any) -> Novelty | None:
    """The signal of a profile's document; None if the profile has none. Raises ValueError if it can't be used."""
    document = profile.get(NOVELTY)
    if document is None:
        return None
    try:
        encoder = _encoder(document)
        edges, shares = ([float(value) for value in document[name]] for name in ("edges", "masses"))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{PROFILE}: {NOVELTY}: {error!r}") from error
    if len(shares) != len(edges) + 1:
        raise ValueError(f"{PROFILE}: {NOVELTY} must have one more mass than edges")
    return replace(encoder, edges=edges, shares=shares)


def _vocabulary(texts: Sequence[str]) -> tuple[dict[str, int], _Floats] | None:
    """The words, and the weight of each: the logarithm of the inverse share of texts that have it."""
    counts = Counter(word for text in texts for word in set(words(text)))
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = {word: count for word, count in ordered[:WORDS] if SHARED <= count < len(texts)}
    if len(kept) < DIMENSIONS:
        return None
    index = {word: row for row, word in enumerate(kept)}
    return index, np.log(len(texts) / np.array(list(kept.values()))).astype(np.float32)


def _table(texts: Sequence[str], index: Mapping[str, int], weights: _Floats) -> _Floats:
    """A row of length 1 per text: the weights of its words."""
    table = np.zeros((len(texts), len(index)), np.float32)
    for row, text in enumerate(texts):
        for word in words(text):
            if word in index:
                table[row, index[word]] += weights[index[word]]
    return _unit(table)


def _directions(table: _Floats) -> _Floats:
    """The directions in which the texts differ most: [words, DIMENSIONS]."""
    start = np.random.default_rng(0).standard_normal((table.shape[1], DIMENSIONS + _OVERSAMPLED), np.float32)
    basis = start
    for _ in range(_POWER_STEPS):
        basis = np.linalg.qr(table.T @ (table @ basis))[0]
    ordered = np.linalg.svd(table @ basis, full_matrices=False)[2]
    return np.asarray((basis @ ordered.T)[:, :DIMENSIONS], np.float32)


def _places(texts: _Floats) -> _Floats:
    """Centres of the texts' vectors, each of SHARED texts or more."""
    chosen = np.random.default_rng(0).permutation(len(texts))[: min(PLACES, len(texts) // SHARED)]
    places = texts[np.sort(chosen)]
    for _ in range(_MOVES):
        nearest = (texts @ places.T).argmax(axis=1)
        sums = np.zeros_like(places)
        np.add.at(sums, nearest, texts)
        members = np.bincount(nearest, minlength=len(places))
        places = _unit(np.where(members[:, None] > 0, sums, places))
    members = np.bincount((texts @ places.T).argmax(axis=1), minlength=len(places))
    return places[members >= SHARED]


def _unit(rows: _Floats) -> _Floats:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9), np.float32)


def _packed(rows: _Floats) -> dict[str, Any]:
    """Rows in 8 bits a number, each with the size of its largest one."""
    largest = np.maximum(np.abs(rows).max(axis=1), 1e-9)
    numbers = np.rint(rows / largest[:, None] * _LEVELS).astype(np.int8)
    return {
        "numbers": base64.b64encode(numbers.tobytes()).decode(),
        "largest": base64.b64encode(largest.astype("<f4").tobytes()).decode(),
    }


def _unpacked(packed: Mapping[str, str]) -> _Floats:
    """The rows of `_packed`. Raises ValueError if they do not fit together."""
    largest = np.frombuffer(base64.b64decode(packed["largest"], validate=True), "<f4")
    numbers = np.frombuffer(base64.b64decode(packed["numbers"], validate=True), np.int8).reshape(-1, DIMENSIONS)
    if len(largest) != len(numbers) or not len(largest) or not np.isfinite(largest).all():
        raise ValueError("rows without a size")
    return (numbers * (largest[:, None] / _LEVELS)).astype(np.float32)


def _encoder(document: Any) -> Novelty:
    """The encoder without bins."""
    index = {str(word): row for row, word in enumerate(document["words"])}
    vectors, places = _unpacked(document["vectors"]), _unit(_unpacked(document["places"]))
    if len(index) != len(vectors):
        raise ValueError("it must have one vector per word")
    return Novelty(index, vectors, places)

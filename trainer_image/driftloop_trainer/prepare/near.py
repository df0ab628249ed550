"""Near-duplicates: MinHash proposes, the true Jaccard similarity of character shingles decides. Pure."""

from collections.abc import Sequence

from rensa import RMinHash, RMinHashLSH

from driftloop.contract.text import normalise

_SHINGLE = 4  # characters: a typo in a row of fifty leaves it above 0.8 of its copy
_PERMUTATIONS = 120
_SEED = 42
_RECALL = 0.999


def shingles(text: str) -> frozenset[str]:
    """The character n-grams of a text, case and spacing aside; a shorter text is one shingle."""
    plain = normalise(text).casefold()
    return frozenset(plain[i : i + _SHINGLE] for i in range(max(1, len(plain) - _SHINGLE + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard: the share of shingles in common, in [0, 1]."""
    common = len(one & other)
    return common / (len(one) + len(other) - common)


def rows_per_band(threshold: float) -> int:
    """The most selective band width that still proposes 99.9 % of the pairs at `threshold`.

    A pair of similarity s shares one of b bands of r rows with probability 1 - (1 - s^r)^b
    (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, section 3.4).
    """
    for rows in (12, 10, 8, 6, 5, 4, 3, 2):
        if 1 - (1 - threshold**rows) ** (_PERMUTATIONS // rows) >= _RECALL:
            return rows
    return 1


class NearIndex:
    """Texts that are kept, and which of them a new text is a copy of."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        bands = _PERMUTATIONS // rows_per_band(threshold)
        self._lsh = RMinHashLSH(threshold, _PERMUTATIONS, bands)
        self._shingles: list[frozenset[str]] = []

    def add(self, text: str) -> int:
        """Keep a text; returns its number, counted from 0."""
        grams = shingles(text)
        number = len(self._shingles)
        self._lsh.insert(number, _minhash(grams))
        self._shingles.append(grams)
        return number

    def copies(self, text: str) -> list[int]:
        """Numbers of the kept texts that `text` is a near-duplicate of, rising.

        Similar to a kept text itself: chains of small changes don't make two unlike texts copies.
        """
        if not self._shingles:
            return []
        grams = shingles(text)
        candidates = sorted(set(self._lsh.query(_minhash(grams))))
        return [n for n in candidates if similarity(grams, self._shingles[n]) >= self._threshold]


def without_copies_of(texts: Sequence[str], originals: Sequence[str], threshold: float) -> list[int]:
    """Positions in `texts` of those that are no near-duplicate of any of the `originals`."""
    index = NearIndex(threshold)
    for original in originals:
        index.add(original)
    return [position for position, text in enumerate(texts) if not index.copies(text)]


def _minhash(grams: frozenset[str]) -> RMinHash:
    minhash = RMinHash(_PERMUTATIONS, _SEED)
    minhash.update(sorted(grams))
    return minhash

"""Finds near-duplicates: MinHash proposes pairs, the exact Jaccard similarity of shingles decides. Pure."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable

from rensa import RMinHash

from driftloop_trainer.prepare.common import CommonPassages, plain

_SHINGLE = 4  # characters: with one typo, a row of 50 characters is still above 0.8 similar to its copy
_PERMUTATIONS = 120
_SEED = 42
_RECALL = 0.999
CROWD, COMPARISONS = 32, 32


def shingles(text: str) -> frozenset[str]:
    """The character n-grams of a text without case and spacing; a shorter text is one shingle."""
    text = plain(text)
    return frozenset(text[i : i + _SHINGLE] for i in range(max(1, len(text) - _SHINGLE + 1)))


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard similarity: the share of common shingles, in [0, 1]."""
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
    """An index of kept rows that finds near-duplicates of a new row: a similar text and the same answer.

    Prompts that differ in one word and have different answers are not copies, as a model has to learn that word. For
    texts with common passages only the gaps are compared. Each row is compared with a limited number of others: beyond
    `CROWD` rows per band and the `COMPARISONS` likeliest candidates, a copy may be missed.
    """

    def __init__(self, threshold: float, texts: Iterable[str]) -> None:
        """`texts`: all texts that will be compared, to find their common passages."""
        self._threshold = threshold
        self._width = rows_per_band(threshold)
        self._passages = CommonPassages([plain(text) for text in texts])
        self._buckets: defaultdict[int, list[int]] = defaultdict(list)
        self._kept: list[tuple[frozenset[str], Hashable]] = []
        self._last: tuple[str, frozenset[str]] = ("", frozenset())  # cached, as `add` usually follows `copies`
        self.comparisons = 0  # number of comparisons so far

    def add(self, text: str, answer: Hashable = None) -> int:
        """Add a row. Returns its number, starting at 0."""
        grams, number = self._grams(text), len(self._kept)
        self._kept.append((grams, answer))
        for bucket in self._bands(grams, answer):
            if len(self._buckets[bucket]) < CROWD:
                self._buckets[bucket].append(number)
        return number

    def copies(self, text: str, answer: Hashable = None) -> list[int]:
        """The ascending numbers of the kept rows that a row is a near-duplicate of.

        The row is similar to each of them directly: a chain of small changes doesn't make two texts copies.
        """
        grams = self._grams(text)
        shared = Counter(n for bucket in self._bands(grams, answer) for n in self._buckets.get(bucket, ()))
        likeliest = sorted(shared, key=lambda number: (-shared[number], number))[:COMPARISONS]
        return sorted(number for number in likeliest if self._is_copy(grams, answer, number))

    def _is_copy(self, grams: frozenset[str], answer: Hashable, number: int) -> bool:
        kept, kept_answer = self._kept[number]
        self.comparisons += 1
        return kept_answer == answer and similarity(grams, kept) >= self._threshold

    def _grams(self, text: str) -> frozenset[str]:
        if self._last[0] != text or not self._last[1]:
            self._last = text, shingles(self._passages.varying(plain(text)))
        return self._last[1]

    def _bands(self, grams: frozenset[str], answer: Hashable) -> list[int]:
        """The buckets of a row: rows with the same answer and an equal band of MinHashes share a bucket."""
        minhash = RMinHash(_PERMUTATIONS, _SEED)
        minhash.update(sorted(grams))
        digest, width = minhash.digest(), self._width
        bands = range(_PERMUTATIONS // width)
        return [hash((answer, band, *digest[band * width : (band + 1) * width])) for band in bands]

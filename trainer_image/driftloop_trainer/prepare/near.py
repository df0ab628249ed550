"""Near-duplicates: MinHash proposes, the true Jaccard similarity of character shingles decides. Pure."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence

from rensa import RMinHash

from driftloop_trainer.prepare.common import CommonPassages, plain

_SHINGLE = 4  # characters: a typo in a row of fifty leaves it above 0.8 of its copy
_PERMUTATIONS = 120
_SEED = 42
_RECALL = 0.999
CROWD, COMPARISONS = 32, 32


def shingles(text: str) -> frozenset[str]:
    """The character n-grams of a text, case and spacing aside; a shorter text is one shingle."""
    found = plain(text)
    return frozenset(found[i : i + _SHINGLE] for i in range(max(1, len(found) - _SHINGLE + 1)))


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
    """Rows that are kept, and which of them a new row is a copy of: a text near theirs, and the same answer.

    Two prompts a word apart with different answers are no copies: that word is what there is to learn. Of texts that
    have passages in common what stands in the gaps is compared. Each row is compared with few others, however many are
    alike: beyond `CROWD` rows of a band and `COMPARISONS` candidates, the likeliest first, a copy may be missed.
    """

    def __init__(self, threshold: float, texts: Iterable[str]) -> None:
        """`texts` are those that are to be compared: what they have in common is learned from them."""
        self._threshold = threshold
        self._width = rows_per_band(threshold)
        self._passages = CommonPassages([plain(text) for text in texts])
        self._buckets: defaultdict[int, list[int]] = defaultdict(list)
        self._kept: list[tuple[frozenset[str], Hashable]] = []
        self._last: tuple[str, frozenset[str]] = ("", frozenset())  # who asks for copies of a text adds it next
        self.comparisons = 0  # of two texts, so far

    def add(self, text: str, answer: Hashable = None) -> int:
        """Keep a row; returns its number, counted from 0."""
        grams, number = self._grams(text), len(self._kept)
        self._kept.append((grams, answer))
        for bucket in self._bands(grams, answer):
            if len(self._buckets[bucket]) < CROWD:
                self._buckets[bucket].append(number)
        return number

    def copies(self, text: str, answer: Hashable = None) -> list[int]:
        """Numbers of the kept rows that a row is a near-duplicate of, rising.

        Similar to a kept text itself: chains of small changes don't make two unlike texts copies.
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
        """Buckets: rows of one answer that share a band of their MinHashes."""
        minhash = RMinHash(_PERMUTATIONS, _SEED)
        minhash.update(sorted(grams))
        digest, width = minhash.digest(), self._width
        bands = range(_PERMUTATIONS // width)
        return [hash((answer, band, *digest[band * width : (band + 1) * width])) for band in bands]


Labelled = tuple[str, Hashable]  # a text and its answer


def without_copies_of(rows: Sequence[Labelled], originals: Sequence[Labelled], threshold: float) -> list[int]:
    """Positions in `rows` of those that are no near-duplicate of any of the `originals`."""
    index = NearIndex(threshold, (text for part in (originals, rows) for text, _ in part))
    for text, answer in originals:
        index.add(text, answer)
    return [position for position, (text, answer) in enumerate(rows) if not index.copies(text, answer)]

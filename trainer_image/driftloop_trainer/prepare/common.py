"""Finds passages that many texts share, so that they don't decide whether two texts are near-duplicates. Pure.

Two messages of 50 characters in the same instruction of 2,500 characters have a similarity of 0.96, whatever they say.
So only the text in the instruction's gap is compared. A gap is where nearly all texts with the same passage before or
after it differ at once, or where one text has a long part of its own. A typo is not a gap, as most other texts stay the
same there. So near-copies of one sentence remain near-duplicates, even if all data consists of them.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftloop.contract.text import normalise

_DOUBLINGS = 5
PASSAGE = 1 << _DOUBLINGS  # characters: too many to be equal by chance
_EDGE = PASSAGE // 2  # characters of a passage that are enough at the ends of a text
_SAMPLE = 8000  # texts that are searched for passages
_SAMPLE_CHARACTERS = 20_000_000
_MANY = 10  # sampled texts with the passage next to a gap; few, as data may have hundreds of instructions
_LEAST = 5  # sampled texts with a common passage; even fewer, as in each near-copy a typo destroys some passages
_BRANCH = 0.8  # where texts start to differ, at most this share of a passage's texts stays the same
_NEAR, _GAP = 8, 0.9  # at a gap, this share of a passage's texts differs within this many characters
_MUCH = 24  # characters: a longer part of a text's own is always a gap; a typo near the end of a text is shorter
_END = "\0"  # put around a text, and between the parts in its gaps

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


def plain(text: str) -> str:
    """A text in the form that is compared, without differences of case and spacing."""
    return normalise(text).casefold()


class CommonPassages:
    """The common passages of `texts`, which must be `plain`, and the places of their gaps."""

    def __init__(self, texts: Sequence[str]) -> None:
        sample = [_passages(text) for text in _sample(texts)]
        self._common = _Counted(*_frequent(sample))
        self._before, self._behind = self._gaps(sample) if self._common else (_NONE, _NONE)

    def varying(self, text: str) -> str:
        """The parts of a plain text that are in gaps; the whole text if it has no gap."""
        if not self._common:
            return text
        passages = _passages(text)
        parts = []
        for start, stop in _runs(self._own(passages)):
            part = text[max(0, start - _EDGE) : max(0, stop - _EDGE)]
            if part and self._is_gap(passages, start, stop, len(part) >= _MUCH):
                parts.append(part)
        return _END.join(parts) or text

    def _own(self, passages: Hashes) -> Mask:
        """For each character, with the ends around the text, whether it is the text's own: not in a common passage.

        The start of the text in a gap may be common too: "... Message: card" in "card lost" and "card stolen". It
        counts as the text's own, as the number of texts with the passage falls there at once.
        """
        texts = self._common.counts(passages)
        falls = texts[1:] < _BRANCH * texts[:-1]  # from one character to the next
        rises = texts[:-1] < _BRANCH * texts[1:]
        branches = np.zeros(len(passages) + PASSAGE - 1, np.int64)
        branches[PASSAGE:] += falls
        branches[: len(passages) - 1] += rises
        within = np.concatenate([[0], np.cumsum(branches)])
        whole = np.flatnonzero((texts > 0) & (within[PASSAGE:] == within[:-PASSAGE]))
        edges = np.zeros(len(branches) + 1, np.int64)
        edges[whole] += 1
        edges[whole + PASSAGE] -= 1
        own: Mask = np.cumsum(edges)[:-1] == 0
        return own

    def _gaps(self, sample: Sequence[Hashes]) -> tuple[Hashes, Hashes]:
        """The passages before gaps, and the passages after gaps, both sorted."""
        texts = self._common.texts
        before, behind = np.zeros_like(texts), np.zeros_like(texts)
        for passages in sample:
            own = np.concatenate([[0], np.cumsum(self._own(passages))])
            places = self._common.places(passages)
            known = np.flatnonzero(texts[places])
            after = np.minimum(known + PASSAGE + _NEAR, len(own) - 1)
            ahead = np.maximum(known - _NEAR, 0)
            before[np.unique(places[known[own[after] > own[known + PASSAGE]]])] += 1
            behind[np.unique(places[known[own[known] > own[ahead]]])] += 1
        enough = np.maximum(_MANY, _GAP * texts)
        return self._common.passages[before >= enough], self._common.passages[behind >= enough]

    def _is_gap(self, passages: Hashes, start: int, stop: int, is_long: bool) -> bool:
        beside = [(at, gaps) for at, gaps in ((start - PASSAGE, self._before), (stop, self._behind)) if at >= 0]
        return any(
            _contains(gaps, passage) or (is_long and self._common.counts(passage)[0] >= _MANY)
            for at, gaps in beside
            if (passage := passages[at : at + 1]).size
        )


class _Counted:
    """Sorted passages with the number of texts that contain them, and at the end one that no text contains.

    A table of their first bits finds them, several times faster than a binary search.
    """

    def __init__(self, passages: Hashes, texts: Counts) -> None:
        self._size = len(passages)
        self.passages = np.append(passages, np.uint64(2**64 - 1))
        self.texts = np.append(texts, 0)
        bits = min(24, max(1, self._size).bit_length() + 4)
        self._shift = np.uint64(64 - bits)
        starts = np.arange(1 << bits, dtype=np.uint64) << self._shift
        self._first = np.searchsorted(passages, starts)
        self._rounds = int(np.diff(self._first, append=self._size).max(initial=0))

    def __bool__(self) -> bool:
        return self._size > 0

    def places(self, passages: Hashes) -> Counts:
        """The position of each passage; for an unknown passage the position at the end."""
        positions = self._first[passages >> self._shift]
        for _ in range(self._rounds):
            positions += self.passages[positions] < passages
        return np.where(self.passages[positions] == passages, positions, self._size)

    def counts(self, passages: Hashes) -> Counts:
        """The number of texts with each passage; 0 for an unknown passage."""
        return self.texts[self.places(passages)]


_NONE: Hashes = np.empty(0, np.uint64)
_MULTIPLIERS = [np.uint64(pow(0x9E3779B97F4A7C15, 1 << doubling, 1 << 64)) for doubling in range(_DOUBLINGS)]


def _passages(text: str) -> Hashes:
    """Hashes of the passages that start at each character, with the ends around the text; shape (characters + 1,)."""
    ends = _END * _EDGE
    hashes = np.frombuffer((ends + text + ends).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    for doubling, multiplier in enumerate(_MULTIPLIERS):
        width = 1 << doubling
        hashes = hashes[:-width] * multiplier + hashes[width:]  # modulo 2^64
    return hashes * _SPREAD


_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd, so that different hashes stay different


def _frequent(sample: Sequence[Hashes]) -> tuple[Hashes, Counts]:
    """The sorted passages that are in enough of the sampled texts, and the number of texts with each."""
    if len(sample) < _LEAST:
        return _NONE, np.empty(0, np.int64)
    unique, counts = np.unique(np.concatenate([np.unique(passages) for passages in sample]), return_counts=True)
    return unique[counts >= _LEAST], counts[counts >= _LEAST].astype(np.int64)


def _sample(texts: Sequence[str]) -> list[str]:
    """A sample of the different texts in order of their hash, limited by the memory for their passages."""
    chosen, room = [], _SAMPLE_CHARACTERS
    for text in sorted(set(texts), key=lambda text: (zlib.crc32(text.encode(errors="surrogatepass")), text))[:_SAMPLE]:
        room -= len(text)
        if room < 0:
            break
        chosen.append(text)
    return chosen


def _runs(mask: Mask) -> list[tuple[int, int]]:
    """Start and stop of each run of true values."""
    change = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return [(int(start), int(stop)) for start, stop in change.reshape(-1, 2)]


def _contains(ordered: Hashes, passage: Hashes) -> bool:
    place = int(np.searchsorted(ordered, passage[0]))
    return place < len(ordered) and bool(ordered[place] == passage[0])

"""What many texts have in common, so that it doesn't decide whether two of them are copies. Pure.

Under an instruction of 2,500 characters any two messages of fifty are 0.96 similar. What tells them apart stands in the
instruction's gap, and that alone is compared. A gap is where nearly all texts that share the passage before it, or
behind it, at once go on in ways of their own; or where a text says much of its own. A typo makes none: most others go
on alike there. So the copies of a sentence stay copies, were they the whole data.
"""

import zlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from driftloop.contract.text import normalise

_DOUBLINGS = 5
PASSAGE = 1 << _DOUBLINGS  # characters: no two people say so many alike by chance
_EDGE = PASSAGE // 2  # of a passage that are enough at a text's ends
_SAMPLE = 2000  # texts that are looked at for passages
_SAMPLE_CHARACTERS = 20_000_000
_SHARE, _LEAST = 0.02, 10  # of the sampled texts that a common passage is in
_BRANCH = 0.8  # of a passage's texts, at most, go on alike where something of their own begins
_NEAR, _GAP = 8, 0.9  # within so many characters so many of a passage's texts say something of their own at a gap
_MUCH = 24  # characters: more than a typo leaves, which takes what stands between it and the end along
_END = "\0"  # stands around a text, and between what stands in its gaps

Hashes = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]


def plain(text: str) -> str:
    """A text as it is compared: case and spacing aside."""
    return normalise(text).casefold()


class CommonPassages:
    """The passages that many of `texts`, which are plain, share; and where their gaps are."""

    def __init__(self, texts: Sequence[str]) -> None:
        sample = [_passages(text) for text in _sample(texts)]
        self._common = _Counted(*_frequent(sample))
        self._before, self._behind = self._gaps(sample) if self._common else (_NONE, _NONE)

    def varying(self, text: str) -> str:
        """What stands in the gaps of a plain text; all of the text where there is none."""
        if not self._common:
            return text
        passages = _passages(text)
        parts = []
        for start, stop in _runs(self._own(passages)):
            part = text[max(0, start - _EDGE) : max(0, stop - _EDGE)]
            if len(part) >= _MUCH or (part and self._is_gap(passages, start, stop)):
                parts.append(part)
        return _END.join(parts) or text

    def _own(self, passages: Hashes) -> Mask:
        """Whether each character, the ends around the text included, is the text's own: in no common passage.

        Beginnings of what stands in a gap may be common too: "... Message: card" of "card lost" and "card stolen".
        They show by their numbers, which fall at once, and are the text's own.
        """
        texts = self._common.texts[self._common.places(passages)]
        falls = texts[1:] < _BRANCH * texts[:-1]  # as the passage moves on by a character
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
        """Passages before a gap, and passages behind one, both sorted."""
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
        enough = np.maximum(1, _GAP * texts)
        return self._common.passages[before >= enough], self._common.passages[behind >= enough]

    def _is_gap(self, passages: Hashes, start: int, stop: int) -> bool:
        before = start >= PASSAGE and _contains(self._before, passages[start - PASSAGE])
        return before or (stop < len(passages) and _contains(self._behind, passages[stop]))


class _Counted:
    """Passages, sorted, and the number of texts that each is in; one more that is in none stands at the end.

    A table by their first bits finds them, several times as fast as a binary search.
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
        """Where each of some passages stands; those that aren't here at the end."""
        found = self._first[passages >> self._shift]
        for _ in range(self._rounds):
            found += self.passages[found] < passages
        return np.where(self.passages[found] == passages, found, self._size)


_NONE: Hashes = np.empty(0, np.uint64)
_MULTIPLIERS = [np.uint64(pow(0x9E3779B97F4A7C15, 1 << doubling, 1 << 64)) for doubling in range(_DOUBLINGS)]


def _passages(text: str) -> Hashes:
    """Hash of the passage from each character on, the ends around the text included; shape (characters + 1,)."""
    ends = _END * _EDGE
    found = np.frombuffer((ends + text + ends).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    for doubling, multiplier in enumerate(_MULTIPLIERS):
        width = 1 << doubling
        found = found[:-width] * multiplier + found[width:]  # modulo 2^64
    return found * _SPREAD


_SPREAD = np.uint64(0xD6E8FEB86659FD93)  # odd: one to one


def _frequent(sample: Sequence[Hashes]) -> tuple[Hashes, Counts]:
    """Passages in enough of the sampled texts, sorted, and in how many each is."""
    least = max(_LEAST, round(_SHARE * len(sample)))
    if len(sample) < least:
        return _NONE, np.empty(0, np.int64)
    found, counts = np.unique(np.concatenate([np.unique(passages) for passages in sample]), return_counts=True)
    return found[counts >= least], counts[counts >= least].astype(np.int64)


def _sample(texts: Sequence[str]) -> list[str]:
    """Some of the different texts, drawn by their hash, and as many as memory holds the passages of."""
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


def _contains(ordered: Hashes, value: np.uint64) -> bool:
    place = int(np.searchsorted(ordered, value))
    return place < len(ordered) and bool(ordered[place] == value)

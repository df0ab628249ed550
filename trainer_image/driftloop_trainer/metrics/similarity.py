"""chrf and rouge: how similar the answer's text is to the completion's. Pure.

- chrF2: Popović 2015, "chrF: character n-gram F-score for automatic MT evaluation", as sacrebleu's `sentence_chrf`;
- ROUGE-L: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries", the F-measure of `rouge-score`, but with
  the letters of all languages.
"""

import re
from collections import Counter

_ORDER = 6  # longest n-gram, in characters
_BETA2 = 4.0  # recall counts twice as much as precision
_WORD = re.compile(r"\w+")


def chrf(expected: str, answer: str) -> float:
    """The F2-score of the mean precision and recall of n-grams of 1 to 6 characters, without spaces."""
    right, given = "".join(expected.split()), "".join(answer.split())
    orders = range(1, min(_ORDER, len(right), len(given)) + 1)
    if not orders:
        return 0.0
    precision = recall = 0.0
    for n in orders:
        one, other = _grams(right, n), _grams(given, n)
        matches = (one & other).total()
        precision += matches / other.total() / len(orders)
        recall += matches / one.total() / len(orders)
    if precision + recall == 0:
        return 0.0
    return (1 + _BETA2) * precision * recall / (_BETA2 * precision + recall)


def rouge_l(expected: str, answer: str) -> float:
    """The F1-score of the longest common subsequence of words, without regard to case."""
    right, given = words(expected), words(answer)
    common = _common_subsequence(right, given)
    return 2 * common / (len(right) + len(given)) if common else 0.0


def words(text: str) -> list[str]:
    """The words of a text: runs of letters and digits, case-folded."""
    return _WORD.findall(text.casefold())


def _grams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def _common_subsequence(one: list[str], other: list[str]) -> int:
    """Length of the longest common subsequence. One bit per word of `one`, in a single integer (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for position, word in enumerate(one):
        places[word] = places.get(word, 0) | 1 << position
    everything = (1 << len(one)) - 1
    row = everything
    for word in other:
        matches = row & places.get(word, 0)
        row = ((row + matches) | (row - matches)) & everything
    return len(one) - row.bit_count()

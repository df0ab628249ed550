"""The letters of a chart: each is a few strokes on a grid of 5 by 9 points. Pure.

A stroke is a row of points, and a point is two digits: its column from the left and its row from the top. Row 6 is the
line on which letters stand, and row 2 the top of small ones.
"""

Stroke = list[tuple[int, int]]

WIDTH, HEIGHT, ADVANCE = 4, 6, 6  # of a letter without what hangs below its line, and from one to the next

_STROKES = {
    "0": "103041453616050110",
    "1": "112026 1636",
    "2": "01103041420646",
    "3": "01103041423313 334445361605",
    "4": "36300444",
    "5": "400002324345361605",
    "6": "413010010516364544331304",
    "7": "004016",
    "8": "103041423313020110 3344453616050413",
    "9": "051636454130100102133342",
    ".": "2626",
    "-": "0444",
    "+": "0444 2226",
    "a": "12324346 441405163645",
    "b": "0006 0312324345361605",
    "c": "4332120305163645",
    "d": "4046 4332120305163645",
    "e": "04444332120305163645",
    "f": "41302126 0232",
    "g": "42473818 4332120305163645",
    "h": "0006 0312324346",
    "i": "2226 2020",
    "j": "22271807 2020",
    "k": "0006 4204 2346",
    "l": "10202536",
    "m": "0206 03122326 23324346",
    "n": "0206 0312324346",
    "o": "123243453616050312",
    "p": "0208 0312324345361605",
    "q": "4248 4332120305163645",
    "r": "0206 03123243",
    "s": "43321203143445361605",
    "t": "20253645 0242",
    "u": "0205163645 4246",
    "v": "022642",
    "w": "0216233642",
    "x": "0246 0642",
    "y": "0226 4208",
    "z": "02420646",
}


def strokes(letter: str) -> list[Stroke]:
    """The strokes of a letter; none for a space and for letters that are not in the table.

    >>> strokes("v")
    [[(0, 2), (2, 6), (4, 2)]]
    """
    return [_points(stroke) for stroke in _STROKES.get(letter.lower(), "").split()]


def _points(stroke: str) -> Stroke:
    return [(int(stroke[place]), int(stroke[place + 1])) for place in range(0, len(stroke), 2)]

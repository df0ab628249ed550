"""Quantiles of Student's t. Pure, exact to ten digits.

Sources: the finite series of the distribution for whole degrees of freedom, and the expansion of its quantiles around
those of the normal distribution for many (Abramowitz & Stegun 1964, 26.7.3, 26.7.4 and 26.7.5).
"""

import math
from functools import lru_cache
from statistics import NormalDist

_MANY = 500  # degrees from which the expansion is exact to ten digits
_HALVINGS = 60  # steps of the bisection for the angle whose tangent is the quantile over the root of the degrees


@lru_cache(maxsize=4096)
def t_quantile(degrees: int, tail: float = 0.05) -> float:
    """The value that Student's t exceeds with a probability of `tail`, below 0.5; infinite below one degree."""
    if degrees < 1:
        return math.inf
    if degrees >= _MANY:
        return _expanded(degrees, -NormalDist().inv_cdf(tail))
    low, high = 0.0, math.pi / 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(degrees, middle) < 1 - 2 * tail else (low, middle)
    return math.sqrt(degrees) * math.tan((low + high) / 2)


def _within(degrees: int, angle: float) -> float:
    """The probability that t is not farther from 0 than the root of `degrees` times the tangent of `angle`."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = degrees % 2
    term = total = cosine if odd else 1.0
    for n in range(2 + odd, degrees - 1, 2):
        term *= cosine**2 * (n - 1) / n
        total += term
    if not odd:
        return sine * total
    return 2 / math.pi * (angle + (sine * total if degrees > 1 else 0.0))


def _expanded(degrees: int, z: float) -> float:
    n, z2 = float(degrees), z * z
    first = z * (z2 + 1) / 4
    second = z * ((5 * z2 + 16) * z2 + 3) / 96
    third = z * (((3 * z2 + 19) * z2 + 17) * z2 - 15) / 384
    fourth = z * ((((79 * z2 + 776) * z2 + 1482) * z2 - 1920) * z2 - 945) / 92_160
    return z + first / n + second / n**2 + third / n**3 + fourth / n**4

"""What each look at the same items may err, so that all looks together err in at most 5 %. Pure.

A look is one comparison of a candidate with one stable version on one set of items. A user who retrains until a gate
passes has many looks, and each could pass by chance. So look k has the share 6/(pi k)^2 of the 5 %: 3.04 %, 0.76 %,
0.34 % ... The shares of all looks add up to one (Euler's sum of 1/k^2), so by Bonferroni's inequality the gate passes
a loss of delta at any of them in at most 5 %, however the looks depend on each other and whenever the user stops.

Source: alpha spending without a number of looks that is fixed before, as in Foster & Stine 2008 ("alpha-investing: a
procedure for sequential control of expected false discoveries", JRSS B 70). Equal shares, as Pocock's (1977), need
this number. Geometric shares (1/2, 1/4 ...) leave nothing soon: look 10 would need 2.9 times the items of look 1, and
look 50 eleven times. With 6/(pi k)^2 it is 2.5 and 3.5 times, for a power of 80 %.
"""

import math
from dataclasses import dataclass
from typing import Self

ALPHA = 0.05  # of all looks together


def alpha_of(look: int) -> float:
    """The probability with which look number `look`, from 1, may pass a loss of delta."""
    return ALPHA * 6 / (math.pi * look) ** 2


@dataclass(frozen=True)
class Look:
    """One look at a suite's items."""

    number: int = 1

    @property
    def alpha(self) -> float:
        """The probability with which its verdict may be a wrong Pass."""
        return alpha_of(self.number)

    @property
    def next(self) -> Self:
        """The next look at the same items."""
        return type(self)(self.number + 1)

    @property
    def error(self) -> str:
        """`alpha` in percent, such as 3.04 %."""
        return f"{100 * self.alpha:.{self._digits}f} %"

    @property
    def certainty(self) -> str:
        """The rest of 100 %, such as 96.96 %."""
        return f"{100 * (1 - self.alpha):.{self._digits}f} %"

    @property
    def _digits(self) -> int:
        return max(2, 1 - math.floor(math.log10(100 * self.alpha)))
